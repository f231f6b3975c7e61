"""A run killed at any moment ends as if it had not been, and a full disk costs nothing that was saved."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.errors import CheckpointError, WorkError
from unipic2_edge.training.loop.average import WeightAverage
from unipic2_edge.training.loop.guard import StepGuard
from unipic2_edge.training.loop.journal import Journal
from unipic2_edge.training.loop.stage import Stage
from unipic2_edge.training.loop.trainer import Trainer
from unipic2_edge.training.recipe import Guard, Recipe, load_recipe

from ..forked_training import run, settings, start

_TIMES = {"seconds_per_step", "samples_per_second", "tokens_per_second", "mfu", "peak_memory_gb", "tflop_per_step"}
_KILLS = 20


def _records(output: Path) -> list[dict[str, float]]:
    """The log without what depends on the clock."""
    lines = (output / "log.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in _TIMES} for line in lines]


def _state(output: Path) -> dict[str, Any]:
    newest = sorted((output / "state").iterdir())[-1]
    made: dict[str, Any] = {"name": newest.name, "weights": (newest / "model.safetensors").read_bytes()}
    for name in ("optimizer.bin", "custom_checkpoint_0.pkl", "process-0.pt", "random_states_0.pkl"):
        made[name] = torch.load(newest / name, weights_only=False)
    return made


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool((a == b).all()) if hasattr(a, "all") else bool(a == b)


@pytest.mark.slow
def test_twenty_kills_change_not_one_bit(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    options = settings(tiny_checkpoint.folder, schedule__steps=120, schedule__decay=0.5, logging__state_every=2)
    run(tmp_path / "whole", options)
    chance, killed = random.Random(5), tmp_path / "killed"
    inside_writing = 0
    for number in range(_KILLS):
        process, step = start(killed, options)
        began = _wait(lambda step=step: step.value >= 0, process) and step.value
        if number % 2:
            _wait(lambda: any((killed / "state").glob(".tmp-*")), process)
        else:
            goal = began + chance.randrange(4)
            _wait(lambda step=step, goal=goal: step.value >= goal, process)
        time.sleep(chance.random() * (0.002 if number % 2 else 0.03))
        assert process.exitcode is None, "the run ended before it was killed"
        process.kill()
        process.join()
        inside_writing += any((killed / "state").glob(".tmp-*"))
    assert inside_writing >= 3
    run(killed, options)
    assert _same(_state(killed), _state(tmp_path / "whole"))
    assert _records(killed) == _records(tmp_path / "whole")
    assert [record["step"] for record in _records(killed)] == [*range(1, 121), 120]
    assert not list((killed / "state").glob(".*"))
    ours, theirs = (Checkpoint.open(tmp_path / name / "checkpoint") for name in ("killed", "whole"))
    assert ours.sha256() == theirs.sha256()


def _wait(reached: Any, process: Any) -> bool:
    deadline = time.monotonic() + 120
    while not reached():
        assert process.is_alive(), "the run ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    return True


class _Wide(Stage):
    """A stage with more weights than a small disk takes, and gradients that may break."""

    def __init__(self, broken: frozenset[int] = frozenset()) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Linear(512, 512)
        self.broken = broken

    def losses(self, step: int, device: torch.device) -> Iterator[tuple[Tensor, dict[str, float]]]:
        x = torch.randn(4, 512, generator=torch.Generator().manual_seed(step))
        loss = self.model(x).square().mean()
        if step in self.broken:  # finite, with an infinite gradient
            loss = loss + (self.model.weight.view(-1)[0] * 0).abs().sqrt()
        yield loss, {}

    def samples(self, folder: Path, step: int) -> dict[str, float]:
        return {"score": 0.5}

    def finish(self, output: Path) -> None:
        (output / "finished").write_text("yes")


def _recipe(steps: int, *changes: str) -> Recipe:
    overrides = [f"schedule.steps={steps}", "schedule.warmup=1", "logging.every=1", "logging.samples_every=0"]
    overrides += ["logging.state_every=1", "gradient_accumulation=1", "optimizer.name=adamw", "ema_decay=0"]
    return load_recipe("shapes-kontext", [*overrides, *changes])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.name != "posix" or os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system; the patched writer's test covers the errors")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_and_the_last_state_goes_on(small_disk: Path) -> None:
    with pytest.raises(WorkError, match="no space left on the disk") as caught:
        Trainer(_recipe(9, "logging.keep_states=9"), _Wide(), small_disk / "run", progress=False).run()
    assert "the last state is kept" in caught.value.mend
    states = sorted(path.name for path in (small_disk / "run" / "state").iterdir())
    assert states
    assert states == [f"step-{number:07d}" for number in range(1, len(states) + 1)]
    for extra in states[:-1]:
        for path in (small_disk / "run" / "state" / extra).iterdir():
            path.unlink()
        (small_disk / "run" / "state" / extra).rmdir()
    trainer = Trainer(_recipe(len(states) + 1), _Wide(), small_disk / "run", progress=False)
    trainer.run()
    assert (small_disk / "run" / "finished").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(27, "File too large"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
    ],
    ids=["system", "limit", "torch"],
)
def test_every_way_of_saying_that_the_disk_is_full_is_understood(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trainer(_recipe(2), _Wide(), tmp_path, progress=False).run()
    trainer = Trainer(_recipe(4), _Wide(), tmp_path, progress=False)

    def refuse(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(trainer.accelerator, "save_state", refuse)
    with pytest.raises(WorkError, match="no space left"):
        trainer.run()
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["step-0000001", "step-0000002"]


def test_as_many_states_stay_as_asked_and_leftovers_go(tmp_path: Path) -> None:
    for name in (".tmp-3", ".old-step-0000001"):
        (tmp_path / "state" / name).mkdir(parents=True)
    Trainer(_recipe(5, "logging.keep_states=3"), _Wide(), tmp_path, progress=False).run()
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [f"step-000000{n}" for n in (3, 4, 5)]


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    Trainer(_recipe(2), _Wide(), tmp_path, progress=False).run()
    (tmp_path / "state" / "step-0000002" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="step-0000002 cannot be loaded"):
        Trainer(_recipe(3), _Wide(), tmp_path, progress=False).run()


def test_steps_with_broken_gradients_are_skipped_as_often_as_allowed(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"gradient.s norm is (nan|inf) at step 2"):
        Trainer(_recipe(5), _Wide(frozenset({2})), tmp_path / "none", progress=False).run()
    assert sorted(path.name for path in (tmp_path / "none" / "state").iterdir())[-1] == "step-0000002"
    Trainer(_recipe(5, "guard.skips=2"), _Wide(frozenset({2, 3})), tmp_path / "two", progress=False).run()
    records = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [record.get("skipped") for record in records[:5]] == [None, None, 1, 2, 2]
    assert records[2]["gradient_norm"] is None
    with pytest.raises(WorkError, match="after 2 such steps were skipped"):
        Trainer(_recipe(9, "guard.skips=2"), _Wide(frozenset({2, 3, 6})), tmp_path / "two", progress=False).run()


def test_losses_that_jump_are_noticed() -> None:
    guard = StepGuard(Guard(spike=3))
    assert all(guard.jump(step, 1.0 + 0.01 * (step % 3)) is None for step in range(40))
    assert guard.jump(40, 5.0) == pytest.approx(5, rel=0.05)
    assert guard.jump(41, 1.0) is None
    again = StepGuard(Guard(spike=3))
    again.load_state_dict(guard.state_dict())
    assert again.jump(42, 6.0) == guard.jump(42, 6.0)


def test_sample_grids_go_to_tensorboard(tmp_path: Path) -> None:
    Image.new("RGB", (9, 5), (200, 30, 30)).save(tmp_path / "grid.png")
    journal = Journal(tmp_path, 0)
    journal.write(7, {"generation": 0.5})
    journal.picture(7, tmp_path / "grid.png")
    journal.picture(8, tmp_path / "none.png")
    journal.close()
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    (picture,) = events.Images("samples")
    assert (picture.step, picture.width, picture.height) == (7, 9, 5)
    assert events.Scalars("generation")[0].value == 0.5


def test_averages_are_diffusers_and_take_its_states() -> None:
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    average, expected = WeightAverage(ours.parameters(), 0.9), EMAModel(theirs.parameters(), decay=0.9)
    for step in range(30):
        for model in (ours, theirs):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
        average.step()
        expected.step(theirs.parameters())
    for a, b in zip(average.state_dict()["shadow_params"], expected.shadow_params, strict=True):
        torch.testing.assert_close(a, b)
    again = WeightAverage(ours.parameters(), 0.9)
    again.load_state_dict(expected.state_dict())
    before = ours.weight.clone()
    with again.applied():
        torch.testing.assert_close(ours.weight.detach(), expected.shadow_params[0])
    assert torch.equal(ours.weight, before)
    with pytest.raises(ValueError, match="of another model"):
        again.load_state_dict({"shadow_params": [torch.zeros(1)], "optimization_step": 1})


def test_a_torn_log_is_mended(tmp_path: Path) -> None:
    lines = ['{"step": 1, "loss": 2.0}', '{"step": 2, "loss": 1.0}', '{"step": 3, "loss": 0.5}', '{"step": 2, "lo']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    journal = Journal(tmp_path, 2)
    journal.write(3, {"loss": 0.25, "broken": float("nan")})
    journal.close()
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert records == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 0.25, "broken": None}]
