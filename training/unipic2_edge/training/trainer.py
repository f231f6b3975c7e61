"""The training loop, the same for every stage: accelerate for devices and precision, EMA, logs, resumable state.

Batches are a function of (seed, step), so a run that was killed goes on exactly where its last saved state
stands. State lies in `<output>/state/step-N`, written beside and renamed; the two newest are kept.
"""

from __future__ import annotations

import logging
import math
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from .errors import InterruptedWorkError, WorkError
from .optimizers import make_optimizers
from .recipe import Recipe, Schedule
from .stage import Stage

logger = logging.getLogger(__name__)
_KEPT_STATES = 2


def learning_rate(schedule: Schedule, step: int) -> float:
    """The factor on the learning rate at `step`, 0…1."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    start = schedule.steps * (1 - schedule.decay)
    start = max(start, float(schedule.warmup))
    if step < start:
        return 1.0
    left = max(0.0, (schedule.steps - step) / max(1.0, schedule.steps - start))
    return 0.5 * (1 - math.cos(math.pi * left)) if schedule.cosine else left


class Trainer:
    """Runs one stage to the end of its schedule, or until it is interrupted."""

    def __init__(self, recipe: Recipe, stage: Stage, output: Path, progress: bool = True) -> None:
        self.recipe, self.stage, self.output, self.progress = recipe, stage, output, progress
        self.accelerator = Accelerator(mixed_precision=recipe.mixed_precision, cpu=not torch.cuda.is_available())
        self.model = self.accelerator.prepare(stage.model)
        stage.model = self.model
        self.optimizers = [
            self.accelerator.prepare(o) for o in make_optimizers(self.model, recipe.optimizer, stage.rate)
        ]
        self.base_lrs = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.ema = EMAModel(self.model.parameters(), decay=recipe.ema_decay) if recipe.ema_decay else None
        if self.ema is not None:
            self.accelerator.register_for_checkpointing(self.ema)
        self.accelerator.register_for_checkpointing(*stage.stateful())
        self.step = 0
        self._stop = False

    def run(self) -> dict[str, float]:
        """Train to the last step and finish the stage; return its last scores.

        Raises:
            InterruptedWorkError: SIGINT or SIGTERM came; the state was saved first.
            WorkError: the loss became NaN or infinite.
        """
        self._resume()
        self.output.mkdir(parents=True, exist_ok=True)
        with self._interruptible(), SummaryWriter(self.output / "logs") as log:
            self._loop(log)
            if self._stop:
                self._save_state()
                raise InterruptedWorkError(
                    f"training stopped at step {self.step}",
                    "the state is saved; the same command goes on from there",
                )
        self._save_state()
        return self._finish()

    def _loop(self, log: SummaryWriter) -> None:
        steps, every = self.recipe.schedule.steps, self.recipe.logging
        bar = tqdm(
            total=steps,
            initial=self.step,
            disable=not self.progress or not self.accelerator.is_main_process,
            unit="step",
        )
        with bar:
            while self.step < steps and not self._stop:
                started = time.perf_counter()
                metrics = self._train_step()
                self.step += 1
                bar.update()
                if self.step % every.every == 0:
                    metrics["seconds_per_step"] = time.perf_counter() - started
                    self._log(log, metrics)
                    bar.set_postfix({"loss": f"{metrics['loss']:.4f}"})
                if every.samples_every and self.step % every.samples_every == 0:
                    self._log(log, self._scores())
                if every.state_every and self.step % every.state_every == 0:
                    self._save_state()

    def _train_step(self) -> dict[str, float]:
        factor = learning_rate(self.recipe.schedule, self.step)
        for optimizer, lrs in zip(self.optimizers, self.base_lrs, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * factor
        self.model.train()
        sums: dict[str, float] = {}
        count = self.recipe.gradient_accumulation
        with self.accelerator.autocast():
            for loss, metrics in self.stage.losses(self.step, self.accelerator.device):
                self.accelerator.backward(loss / count)
                for name, value in {"loss": float(loss.detach()), **metrics}.items():
                    sums[name] = sums.get(name, 0.0) + value / count
        if not math.isfinite(sums["loss"]):
            raise WorkError(
                f"the loss is {sums['loss']} at step {self.step}",
                "lower the learning rate; the last state is kept",
            )
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.ema is not None:
            self.ema.step(self.model.parameters())
        self.stage.after_step(self.step)
        return sums | {"gradient_norm": float(norm), "lr_factor": factor}

    def _log(self, log: SummaryWriter, metrics: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        for name, value in metrics.items():
            log.add_scalar(name, value, self.step)
        log.flush()
        with (self.output / "log.jsonl").open("a", encoding="utf-8") as stream:
            values = ", ".join(f'"{name}": {value:.6g}' for name, value in metrics.items())
            stream.write(f'{{"step": {self.step}, {values}}}\n')

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in the model, for the time of the block."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.model.parameters())
        self.ema.copy_to(self.model.parameters())
        try:
            yield
        finally:
            self.ema.restore(self.model.parameters())

    def _scores(self) -> dict[str, float]:
        self.model.eval()
        with self._averaged(), torch.inference_mode():
            return self.stage.samples(self.output / "samples", self.step)

    def _finish(self) -> dict[str, float]:
        self.model.eval()
        with self._averaged(), torch.no_grad():
            if self.accelerator.is_main_process:
                self.stage.finish(self.output)
            return self.stage.samples(self.output / "samples", self.step)

    def _save_state(self) -> None:
        states = self.output / "state"
        target = states / f"step-{self.step:07d}"
        if target.exists():
            return
        temporary = states / f".tmp-{self.step}"
        self.accelerator.save_state(str(temporary), safe_serialization=True)
        if self.accelerator.is_main_process:
            temporary.replace(target)
            for old in sorted(states.glob("step-*"))[:-_KEPT_STATES]:
                shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        states = sorted((self.output / "state").glob("step-*"))
        if not states:
            return
        self.accelerator.load_state(str(states[-1]))
        if self.ema is not None:
            self.ema.to(self.accelerator.device)
        self.step = int(states[-1].name.removeprefix("step-"))
        logger.info("going on from step %d", self.step)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the loop after the step at hand, with the state saved."""

        def stop(number: int, frame: Any) -> None:
            self._stop = True

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
