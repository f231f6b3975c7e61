"""The training loop: it learns, goes on where it stopped, and stops cleanly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.errors import WorkError
from unipic2_edge.training.loop.stage import Stage
from unipic2_edge.training.loop.trainer import Trainer
from unipic2_edge.training.recipe import Recipe, load_recipe


class _Line(Stage):
    """A stage that fits y = 3x; batches are a function of the step."""

    def __init__(self, broken_at: int = -1) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Linear(1, 1)
        self.broken_at = broken_at
        self.finished: list[float] = []

    def losses(self, step: int, device: torch.device) -> Iterator[tuple[Tensor, dict[str, float]]]:
        x = torch.randn(64, 1, generator=torch.Generator().manual_seed(step))
        loss = (self.model(x) - 3 * x).square().mean()
        yield loss * (float("nan") if step == self.broken_at else 1.0), {}

    def samples(self, folder: Path, step: int) -> dict[str, float]:
        return {"weight": float(next(self.model.parameters()))}

    def finish(self, output: Path) -> None:
        self.finished = [p.detach().clone() for p in self.model.parameters()]


def _recipe(steps: int, **changes: object) -> Recipe:
    overrides = [f"schedule.steps={steps}", "schedule.warmup=2", "logging.every=5", "logging.samples_every=0"]
    overrides += ["logging.state_every=5", "gradient_accumulation=1", "optimizer.lr=0.1", "optimizer.name=adamw"]
    overrides += [f"{key}={value}" for key, value in changes.items()]
    return load_recipe("shapes-kontext", overrides)


def test_it_learns_and_logs(tmp_path: Path) -> None:
    scores = Trainer(_recipe(120), _Line(), tmp_path, progress=False).run()
    assert scores["weight"] == pytest.approx(3, abs=0.2)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in logged[:-1]] == list(range(5, 121, 5))
    assert logged[-1] == {"step": 120, "weight": pytest.approx(scores["weight"], rel=1e-4), "finished": 1}
    assert logged[3]["samples_per_second"] > 0
    assert logged[3]["peak_memory_gb"] > 0
    assert list((tmp_path / "logs").glob("events*"))


def test_going_on_equals_never_having_stopped(tmp_path: Path) -> None:
    whole = _Line()
    Trainer(_recipe(20), whole, tmp_path / "whole", progress=False).run()
    first = _Line()
    trainer = Trainer(_recipe(20), first, tmp_path / "parts", progress=False)
    states = tmp_path / "parts" / "state"

    def stop_after_ten(step: int, device: torch.device) -> Iterator[tuple[Tensor, dict[str, float]]]:
        if step == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return _Line.losses(first, step, device)

    first.losses = stop_after_ten  # type: ignore[method-assign]
    with pytest.raises(WorkError, match="stopped at step 10"):
        trainer.run()
    assert (states / "step-0000010").is_dir()
    second = _Line()
    Trainer(_recipe(20), second, tmp_path / "parts", progress=False).run()
    for a, b in zip(whole.finished, second.finished, strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def test_old_states_are_thrown_away_and_the_newest_kept(tmp_path: Path) -> None:
    Trainer(_recipe(20), _Line(), tmp_path, progress=False).run()
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["step-0000015", "step-0000020"]


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="nan"):
        Trainer(_recipe(20), _Line(broken_at=7), tmp_path, progress=False).run()
    assert (tmp_path / "state" / "step-0000005").is_dir()


def _command(checkpoint: Checkpoint, output: Path, steps: int) -> list[str]:
    settings = {
        "init": str(checkpoint.folder),
        "config": "tiny-kontext",
        "schedule.steps": steps,
        "schedule.warmup": 2,
        "batch_size": 2,
        "data.cached_pairs": 16,
        "logging.every": 1,
        "logging.samples_every": 0,
        "logging.state_every": 0,
    }
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    cli = [sys.executable, "-m", "unipic2_edge.runtime.cli"]
    return [*cli, "train", "shapes-kontext", "--output", str(output), "--quiet", "--json", *sets]


@pytest.mark.slow
def test_ctrl_c_saves_the_state_and_the_same_command_goes_on(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = subprocess.Popen(
        _command(tiny_checkpoint, output, 100_000), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not (output / "log.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "training stopped at step" in err
    assert "Traceback" not in err
    assert json.loads(out.splitlines()[-1])["ok"] is False
    (state,) = (output / "state").glob("step-*")
    reached = int(state.name.removeprefix("step-"))
    finished = subprocess.run(
        _command(tiny_checkpoint, output, reached + 2), capture_output=True, text=True, check=False, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    made = Checkpoint.open(output / "checkpoint")
    assert made.load_transformer().config.num_layers == 2
    steps = [json.loads(line)["step"] for line in (output / "log.jsonl").read_text().splitlines() if "loss" in line]
    assert steps[-2:] == [reached + 1, reached + 2]
