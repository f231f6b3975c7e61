"""The training loop, the same for every stage and any number of processes.

Batches are a function of (seed, step), and everything else that matters is in the run's states, so a run that was
killed goes on, bit for bit, from the newest. What is distributed, and how, is accelerate's launcher's to say.
"""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from ..errors import InterruptedWorkError, SuspendedWorkError, WorkError
from ..folders import full_disk_told
from ..recipe import Recipe, Schedule
from .average import WeightAverage
from .distribution import Distribution
from .guard import StepGuard
from .journal import FINISHED, Journal
from .optimizers import make_optimizers
from .stage import TOKENS, Stage
from .states import RunStates
from .throughput import Throughput

logger = logging.getLogger(__name__)


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
        self.recipe, self.stage, self.output = recipe, stage, output
        self.distribution = Distribution(recipe.mixed_precision, stage.idle_parameters)
        self.accelerator = self.distribution.accelerator
        self.progress = progress and self.accelerator.is_main_process
        stage.share = self.distribution.share
        optimizers = make_optimizers(stage.model, recipe.optimizer, stage.rate)
        self.model, self.optimizers = self.distribution.prepare(stage.model, optimizers)
        stage.model = self.model
        self.base_lrs = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.ema = None
        if recipe.ema_decay:
            trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            self.ema = WeightAverage(trained, recipe.ema_decay)
            self.accelerator.register_for_checkpointing(self.ema)
        self.guard = StepGuard(recipe.guard)
        own = {f"stage-{number}": each for number, each in enumerate(stage.stateful())}
        states = output / "state"
        self.states = RunStates(states, self.accelerator, own | {"guard": self.guard}, recipe.logging.keep_states)
        self.throughput = self._throughput()
        self.step = 0
        self.pace: dict[str, float] = {}  # as last logged
        self._stop = False

    def _throughput(self) -> Throughput:
        recipe, world = self.recipe, self.distribution.share.world
        dtypes = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        return Throughput(
            (self.stage.samples_a_step() or recipe.batch_size * recipe.gradient_accumulation) * world,
            world,
            self.stage.flops,
            recipe.logging.peak_tflops,
            self.accelerator.device,
            dtypes[recipe.mixed_precision],
        )

    def run(self) -> dict[str, float]:
        """Train to the last step and finish the stage; return its last scores.

        Raises:
            InterruptedWorkError: SIGINT or SIGTERM came; the state was saved first.
            SuspendedWorkError: the stage cannot go on for now; the state was saved first.
            WorkError: loss or gradients became NaN or infinite, or the disk is full; the last state is kept.
            CheckpointError: the newest state cannot be loaded.
        """
        with full_disk_told(self.output, "the last state is kept: free some space, and the same command goes on"):
            self.output.mkdir(parents=True, exist_ok=True)
            self.states.clean()
            set_seed(self.recipe.seed, device_specific=True)
            self.step = self.states.load()  # which sets them as they were
            if self.step:
                logger.info("going on from step %d", self.step)
            self.journal = Journal(self.output, self.step, self.accelerator.is_main_process)
            try:
                return self._run()
            finally:
                self.journal.close()
                self.accelerator.end_training()

    def _run(self) -> dict[str, float]:
        with self._interruptible():
            try:
                self._loop()
            except SuspendedWorkError:
                self.states.save(self.step)
                raise
            self.states.save(self.step)
        if self.step < self.recipe.schedule.steps:
            raise InterruptedWorkError(
                f"training stopped at step {self.step}",
                "the state is saved; the same command goes on from there",
            )
        scores = self._finish()
        self.journal.write(self.step, {**scores, FINISHED: 1})
        return scores

    def _loop(self) -> None:
        steps, every = self.recipe.schedule.steps, self.recipe.logging
        with tqdm(total=steps, initial=self.step, disable=not self.progress, unit="step") as bar:
            while self.step < steps and not self._stopping():
                metrics = self._train_step()
                self.step += 1
                bar.update()
                if self.step % every.every == 0:
                    bar.set_postfix(self._log(metrics))
                if every.samples_every and self.step % every.samples_every == 0:
                    self.journal.write(self.step, self._scores())
                    self.journal.picture(self.step, self.output / "samples" / f"step-{self.step:07d}.png")
                if every.state_every and self.step % every.state_every == 0:
                    self.states.save(self.step)

    def _train_step(self) -> dict[str, float]:
        factor = learning_rate(self.recipe.schedule, self.step)
        for optimizer, lrs in zip(self.optimizers, self.base_lrs, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * factor
        self.model.train()
        with self.throughput.step():
            metrics = self._backward()
            norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.max_grad_norm))
            # fp16's scaler lowers its scale and skips by itself where gradients overflow.
            overflow = self.recipe.mixed_precision == "fp16" and not math.isfinite(norm)
            loss = self.distribution.mean(metrics["loss"])
            usable = self.guard.usable(self.step, loss, 0.0 if overflow else norm)
            if usable:
                self._update()
            for optimizer in self.optimizers:
                optimizer.zero_grad()
        self.throughput.tokens(metrics.pop(TOKENS, 0.0) * self.recipe.gradient_accumulation)
        jump = self.guard.jump(self.step, loss) if usable else None
        if jump is not None:
            self.journal.write(self.step + 1, {"loss_jump": jump})
        return metrics | {"gradient_norm": norm, "lr_factor": factor}

    def _backward(self) -> dict[str, float]:
        """Gradients of a step's micro-batches, added up; averages of what they say in this process."""
        sums: dict[str, float] = {}
        count, taken = self.recipe.gradient_accumulation, 0
        losses = self.stage.losses(self.step, self.accelerator.device)
        with self.accelerator.autocast():
            while True:
                with self.distribution.without_sync(self.model, needed=taken >= count - 1):
                    made = next(losses, None)
                    if made is None:
                        break
                    loss, metrics = made
                    self.accelerator.backward(loss / count)
                for name, value in {"loss": float(loss.detach()), **metrics}.items():
                    sums[name] = sums.get(name, 0.0) + value / count
                taken += 1
        if taken < count and self.distribution.share.world > 1:
            raise WorkError(
                f"the stage made {taken} micro-batches where gradient_accumulation is {count}",
                "processes come together in the last one: set gradient_accumulation to their number",
            )
        return sums

    def _update(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
        if self.ema is not None:
            self.ema.step()
        self.stage.after_step(self.step)

    def _log(self, metrics: dict[str, float]) -> dict[str, str]:
        """Write a record; return what the progress bar shows of it."""
        averages = self.distribution.averages(metrics)
        pace = self.pace = self.throughput.report() if self.accelerator.is_main_process else {}
        skipped = {"skipped": float(self.guard.skipped)} if self.guard.skipped else {}
        loss = averages["loss"]
        self.journal.write(self.step, averages | pace | skipped)
        shown = {"samples/s": f"{pace['samples_per_second']:.3g}"} if pace else {}
        if "mfu" in pace:
            shown["MFU"] = f"{pace['mfu']:.0%}"
        return {"loss": f"{loss:.4f}", **shown}

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Evaluation mode, with averaged weights, for the time of the block."""
        self.model.eval()
        with self.ema.applied() if self.ema is not None else nullcontext(), torch.no_grad():
            try:
                yield
            finally:
                self.distribution.let_go(self.model)

    def _scores(self) -> dict[str, float]:
        with self._looking():
            return self._samples()

    def _samples(self) -> dict[str, float]:
        """Scores in the main process; the others wait, or take part where the model is sharded."""
        scores: dict[str, float] = {}
        if self.distribution.sharded or self.accelerator.is_main_process:
            self.stage.model = self.distribution.plain(self.model)
            with self.distribution.only_main_writes(self.output / "samples") as folder:
                scores = self.stage.samples(folder, self.step)
            self.stage.model = self.model
        self.accelerator.wait_for_everyone()
        return scores

    def _finish(self) -> dict[str, float]:
        with self._looking():
            whole = self.distribution.gathered(self.model)
            if whole is not None:
                self.stage.model = whole
                self.stage.finish(self.output)
                self.stage.model = self.model
            self.accelerator.wait_for_everyone()
            return self._samples()

    def _stopping(self) -> bool:
        """Whether a signal came, to any process: all end after the same step."""
        return self._stop if self.distribution.share.world == 1 else self.distribution.mean(float(self._stop)) > 0

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
