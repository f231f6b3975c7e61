"""`bench quality` of real models: its arguments, and from arguments to a report.

unipic2-edge bench quality BUNDLE --protocol geneval --metadata evaluation_metadata.jsonl --pictures geneval
unipic2-edge bench quality BUNDLE --edits edits.jsonl --judge http://127.0.0.1:8000/v1 --judge-model NAME
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_edge.runtime.errors import OutputError, RequestError
from unipic2_edge.runtime.progress import progress

from ..results import Report

if TYPE_CHECKING:
    from unipic2_edge.runtime.pipeline import Pipeline

    from ..quality import Settings


def add_judged(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bench quality` that are about real models."""
    group = parser.add_argument_group("real models")
    group.add_argument("--protocol", choices=("shapes", "geneval"), default="shapes", help="default: shapes")
    group.add_argument("--metadata", metavar="FILE.jsonl", type=Path, help="GenEval's prompts, as it has them")
    group.add_argument("--samples", type=int, default=4, metavar="N", help="pictures for each of them (default: 4)")
    group.add_argument("--detector", metavar="DIR", help="or a name on the hub (default: GenEval's Mask2Former)")
    group.add_argument("--clip", metavar="DIR", help="or a name on the hub (default: GenEval's CLIP)")
    group.add_argument("--edits", metavar="FILE.jsonl", type=Path, help="lines with text, image and, if any, task")
    group.add_argument("--judge", metavar="URL", help="of an OpenAI-compatible server; its key: UNIPIC2_JUDGE_KEY")
    group.add_argument("--judge-model", metavar="NAME", default="", help="default: the only one that it has")
    group.add_argument("--pictures", metavar="DIR", type=Path, help="keep the pictures here")


def is_judged(arguments: argparse.Namespace) -> bool:
    """Whether a real model is meant; refuses what goes together with nothing.

    Raises:
        RequestError: an option lacks its other half.
    """
    geneval = arguments.protocol == "geneval"
    problems = {
        "--protocol geneval needs --metadata": geneval and arguments.metadata is None,
        "--metadata goes with --protocol geneval": not geneval and arguments.metadata is not None,
        "--edits and --protocol geneval are two runs": geneval and arguments.edits is not None,
        "--edits and --judge go together": (arguments.edits is None) != (arguments.judge is None),
        f"{arguments.samples} samples measure nothing": arguments.samples < 1,
    }
    judged = geneval or arguments.edits is not None
    problems["--pictures goes with --protocol geneval or --edits"] = not judged and arguments.pictures is not None
    for problem, wrong in problems.items():
        if wrong:
            raise RequestError(problem, "see unipic2-edge bench quality --help")
    return judged


def judged_report(arguments: argparse.Namespace, recorded: dict[str, object], pipeline: Pipeline) -> Report:
    """GenEval's score, or a judge's of edits.

    Args:
        arguments: of the command.
        recorded: what every report says of a bundle.
        pipeline: the bundle's.

    Raises:
        UserError: what is asked for is not there, or cannot be done.
    """
    return _geneval(arguments, recorded, pipeline) if arguments.edits is None else _edits(arguments, recorded, pipeline)


def _geneval(arguments: argparse.Namespace, recorded: dict[str, object], pipeline: Pipeline) -> Report:
    from unipic2_edge.training.rewards.geneval import GenevalReward
    from unipic2_edge.training.rewards.geneval_metadata import read_metadata
    from unipic2_edge.training.rewards.settings import Geneval

    from ..quality import score_lines, score_record
    from .geneval import judge_generation

    lines = read_metadata(arguments.metadata)
    named = {"detector": arguments.detector, "clip": arguments.clip}
    rules = Geneval(**{name: value for name, value in named.items() if value is not None})
    folder = _empty(arguments.pictures)
    reward = GenevalReward.load(rules)
    settings = _settings(arguments, pipeline, "generate", len(lines))
    with progress(len(lines), "prompt", arguments) as advance:
        tally = judge_generation(pipeline, reward, lines, settings, arguments.samples, folder, advance)
    record = recorded | _drawn(settings) | {
        "protocol": "geneval", "metadata": arguments.metadata.name, "prompts": len(lines), "samples": arguments.samples,
        "detector": Path(rules.detector).name, "clip": Path(rules.clip).name,
        "size": f"{settings.width}x{settings.height}",
        "threshold": rules.threshold, "counting_threshold": rules.counting_threshold,
    }  # fmt: skip
    said = [*score_lines("GenEval", tally.score), f"  partial credit     {tally.credit:.3f}"]
    return Report("quality", record, {"geneval": score_record(tally.score)}, said)


def _edits(arguments: argparse.Namespace, recorded: dict[str, object], pipeline: Pipeline) -> Report:
    from unipic2_edge.training.rewards.judge import JudgeReward
    from unipic2_edge.training.rewards.settings import Judge

    from .edits import judge_edits, opinions_record, read_edits

    edits = read_edits(arguments.edits)
    folder = _empty(arguments.pictures)
    judge = JudgeReward(Judge(url=arguments.judge, model=arguments.judge_model))
    settings = _settings(arguments, pipeline, "edit", len(edits))
    options = {"seed": settings.seed, "num_inference_steps": settings.steps, "guidance_scale": settings.guidance}
    with progress(len(edits), "edit", arguments) as advance:
        opinions = judge_edits(pipeline, judge, edits, options, folder, advance)
    found = opinions_record(opinions)
    record = recorded | _drawn(settings) | {
        "edits": arguments.edits.name, "prompts": len(edits),
        "judge": judge.server.model, "wording": judge.settings.wording,
    }  # fmt: skip
    return Report("judge", record, {"editing": found}, _lines("editing", found))


def _lines(name: str, found: Any) -> list[str]:
    """Scores of 10 for people: everything, the questions, the tasks."""

    def line(name: str, made: Any) -> str:
        low, high = made["interval_95"]
        return f"{name}: {10 * made['mean']:.2f} of 10 (95 %: {10 * low:.2f}–{10 * high:.2f}, {made['total']} edits)"

    said = [line(name, found)]
    for group in ("questions", "tasks"):
        said += [f"  {line(task.replace('_', ' '), made)}" for task, made in found[group].items()]
    return said + ([f"  {found['unanswered']} without a proper answer, not counted"] if found["unanswered"] else [])


def _settings(arguments: argparse.Namespace, pipeline: Pipeline, task: Any, prompts: int) -> Settings:
    from unipic2_edge.runtime.request import task_defaults

    from ..quality import Settings

    default = task_defaults(pipeline.manifest, task)
    return Settings(
        prompts,
        arguments.steps or default.num_inference_steps,
        default.guidance_scale if arguments.guidance is None else arguments.guidance,
        arguments.seed,
        default.width,
        default.height,
    )


def _drawn(settings: Settings) -> dict[str, object]:
    return {"steps": settings.steps, "guidance": settings.guidance, "seed": settings.seed}


def _empty(folder: Path | None) -> Path | None:
    """The folder, made where it is not there.

    Raises:
        OutputError: something is in it, or it cannot be made.
    """
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        full = any(folder.iterdir())
    except OSError as error:
        raise OutputError(f"{folder} is no folder for pictures: {error}", "give another one") from error
    if full:
        raise OutputError(f"{folder} is not empty", "give a new folder: pictures of two runs would be mixed")
    return folder
