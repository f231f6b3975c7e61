"""The demo: the shipped checkpoint becomes a bundle, the bundle is built, pictures are made, judged and shown."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from unipic2_edge.engines.cpu import build_cpu
from unipic2_edge.engines.targets import find_target
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import BundleError, CheckpointError, OutputError
from unipic2_edge.runtime.files import output_errors, write_bytes
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.request import task_defaults
from unipic2_edge.runtime.settings import save_picture
from unipic2_edge.training.shapes.captions import TASKS, Caption, Wanted
from unipic2_edge.training.shapes.scene import Canvas
from unipic2_edge.training.shapes.scores import Score
from unipic2_edge.training.shapes.verifier import judge_generation

from .machine import machine
from .quality import Edited, Generated, Settings, editing_quality, generation_quality, score_record
from .report import Shown, page

#: The shipped checkpoint, beside the training code of a checkout.
CHECKPOINT = Path(__file__).resolve().parents[3] / "training" / "checkpoints" / "shapes-kontext"

PROMPTS = (
    Caption("a red circle", TASKS[3], (Wanted("circle", "red"),)),
    Caption("a large blue square on a white background", TASKS[3], (Wanted("square", "blue", "large"),), None, "white"),
    Caption("two green triangles", TASKS[2], (Wanted("triangle", "green"),) * 2),
    Caption("three circles on a black background", TASKS[2], (Wanted("circle"),) * 3, None, "black"),
    Caption("a cross left of a ring", TASKS[4], (Wanted("cross"), Wanted("ring")), "left of"),
    Caption(
        "a yellow square above a purple circle",
        TASKS[4],
        (Wanted("square", "yellow"), Wanted("circle", "purple")),
        "above",
    ),
    Caption("a red square and a blue ring", TASKS[5], (Wanted("square", "red"), Wanted("ring", "blue"))),
    Caption(
        "a red circle, a blue square and a green ring",
        TASKS[5],
        (Wanted("circle", "red"), Wanted("square", "blue"), Wanted("ring", "green")),
    ),
)
INSTRUCTION = "make the circle blue"
_SEED = 7
_SCORED = 48  # prompts of each task: enough to see that nothing is broken; `bench quality` takes hundreds
_SHOWN_EDITS = 12

Done = Callable[[str], None]


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def run_demo(workdir: Path, checkpoint: Path = CHECKPOINT, done: Done = lambda name: None) -> dict[str, object]:
    """Make everything in `workdir`; what is there and still fits is kept.

    Leaves `bundle/`, `pictures/`, `report.html` and `demo.json`, whose content is returned.

    Raises:
        CheckpointError: the checkpoint is not there.
        OutputError, WorkError: the folder cannot be written, or a step failed.
    """
    if not checkpoint.is_dir():
        raise CheckpointError(f"the shipped checkpoint {checkpoint} is not there", "run the demo from a checkout")
    with output_errors(workdir):
        (workdir / "pictures").mkdir(parents=True, exist_ok=True)
    clock = _Clock()
    with clock.stage("export"):
        bundle = _bundle(workdir / "bundle", checkpoint)
        done("export")
    with clock.stage("build"):
        build_cpu(bundle, find_target("cpu"))
        done("build")
    with clock.stage("load"):
        pipeline = Pipeline.load(workdir / "bundle")
    with clock.stage("pictures"):
        shown, latencies = _pictures(pipeline, workdir / "pictures")
        done("pictures")
    with clock.stage("scores"):
        settings = _settings(pipeline)
        generated, edited = generation_quality(pipeline, settings), editing_quality(pipeline, settings)
        done("scores")
    record = _record(workdir, shown, latencies, generated, edited, clock.seconds, settings)
    _write_report(workdir, record, shown, latencies, generated, edited, settings)
    write_bytes(workdir / "demo.json", (json.dumps(record, indent=2) + "\n").encode())
    done("report")
    return record


def _bundle(folder: Path, checkpoint: Path) -> Bundle:
    """The bundle of this checkpoint: the one that stands, or a new one.

    Raises:
        OutputError: something else stands where the bundle goes.
    """
    from unipic2_edge.training.checkpoint import Checkpoint

    source = Checkpoint.open(checkpoint)
    if folder.exists():
        try:
            bundle = Bundle(folder)
            fits = bundle.manifest.source.sha256 == source.sha256()
        except BundleError:
            fits = False
        if fits:
            return bundle
        raise OutputError(f"{folder} is not the demo's bundle", "remove the folder, or choose another --workdir")
    from unipic2_edge.export.bundle_writer import write_bundle
    from unipic2_edge.export.recipes import find_recipe

    write_bundle(source, folder, find_recipe("fp32"))
    return Bundle(folder)


def _settings(pipeline: Pipeline) -> Settings:
    default = task_defaults(pipeline.manifest, "generate")
    return Settings(_SCORED, default.num_inference_steps, default.guidance_scale, _SEED, default.width, default.height)


def _pictures(pipeline: Pipeline, folder: Path) -> tuple[list[Shown], dict[str, float]]:
    """One picture for each prompt, and the first one edited; seconds of each."""
    shown: list[Shown] = []
    seconds: dict[str, float] = {}
    for index, caption in enumerate(PROMPTS):
        result = pipeline.generate(caption.text, seed=_SEED + index)
        save_picture(
            result.images[0],
            folder / f"{index + 1:02d}-{caption.text.replace(' ', '-').replace(',', '')}.png",
            result.settings[0],
        )
        picture = np.asarray(result.images[0])
        shown.append(Shown(caption.text, picture, judge_generation(picture, caption)))
        seconds["first picture" if index == 0 else "picture"] = result.seconds["total"]
    source = Image.fromarray(shown[0].picture)
    pipeline.edit(source, INSTRUCTION, seed=_SEED)  # opens the encoder
    result = pipeline.edit(source, INSTRUCTION, seed=_SEED)
    save_picture(result.images[0], folder / f"01-{INSTRUCTION.replace(' ', '-')}.png", result.settings[0])
    edited = np.asarray(result.images[0])
    wanted = Caption(INSTRUCTION, TASKS[3], (Wanted("circle", "blue"),))
    shown.append(Shown(INSTRUCTION, edited, judge_generation(edited, wanted), source=shown[0].picture))
    seconds["edit"] = result.seconds["total"]
    return shown, seconds


def _record(
    workdir: Path,
    shown: list[Shown],
    latencies: dict[str, float],
    generated: Generated,
    edited: Edited,
    stages: dict[str, float],
    settings: Settings,
) -> dict[str, object]:
    return {
        "bundle": "bundle",
        "report": "report.html",
        "pictures": sorted(f"pictures/{path.name}" for path in (workdir / "pictures").glob("*.png")),
        "prompts": [{"text": item.text, "right": item.verdict.right, "reason": item.verdict.reason} for item in shown],
        "scores": {"generation": score_record(generated.score), "editing": score_record(edited.score)},
        "settings": {
            "steps": settings.steps,
            "guidance": settings.guidance,
            "size": f"{settings.width}x{settings.height}",
        },
        "seconds": {"stages": stages, "latency": {name: round(value, 4) for name, value in latencies.items()}},
        "machine": machine(),
    }


def _write_report(
    workdir: Path,
    record: dict[str, object],
    shown: list[Shown],
    latencies: dict[str, float],
    generated: Generated,
    edited: Edited,
    settings: Settings,
) -> None:
    canvas = Canvas(settings.width, settings.height)
    lead = (
        f"{canvas.width}×{canvas.height} pixels, {settings.steps} steps, guidance {settings.guidance:g}, "
        "on the CPU, without PyTorch."
    )
    edits = [
        Shown(edit.text, picture, verdict, source)
        for edit, picture, verdict, source in zip(
            edited.edits, edited.pictures, edited.verdicts, edited.sources, strict=True
        )
    ]
    unseen = [
        Shown(caption.text, picture, verdict)
        for caption, picture, verdict in zip(generated.captions, generated.pictures, generated.verdicts, strict=True)
    ]
    latency = [["what", "seconds"], *([name, f"{value:.3f}"] for name, value in latencies.items())]
    facts = [["machine", ""], *([name, _text(value)] for name, value in machine().items())]
    content = page(
        "UniPic2 on the shapes world",
        lead,
        [
            ("From words", shown[: len(PROMPTS)]),
            ("One of them, edited", shown[len(PROMPTS) :]),
            (
                f"Scores on {settings.prompts} unseen prompts and {settings.prompts} unseen edits",
                _score_table(generated.score, edited.score),
            ),
            ("Unseen prompts", unseen[:24]),
            ("Unseen edits", edits[:_SHOWN_EDITS]),
            ("Latency", latency),
            ("Where", facts),
        ],
    )
    write_bytes(workdir / "report.html", content.encode())


def _score_table(generation: Score, editing: Score) -> list[list[str]]:
    rows = [["task", "right", "of", "share"]]
    for name, score in (("generation", generation), ("editing", editing)):
        low, high = score.interval
        right, total = sum(score.right.values()), sum(score.total.values())
        rows.append(
            [f"{name}, mean of its tasks", str(right), str(total), f"{score.mean:.2f} (95 %: {low:.2f}–{high:.2f})"]
        )
        rows += [
            [
                f"  {task}",
                str(score.right[task]),
                str(score.total[task]),
                f"{score.right[task] / score.total[task]:.2f}",
            ]
            for task in score.total
        ]
    return rows


def _text(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
