"""The one thread that has the device: batches in, pictures out, and what to do when the device fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..errors import DeviceLostError, MemoryRanOutError, UserError
from ..result import Result
from .backlog import Backlog
from .encoding import encode
from .jobs import Job, Talk, Work
from .metrics import Metrics
from .pictures import Pictures
from .problems import ApiError, out_of_memory, problem_of, stopping, too_late

logger = logging.getLogger(__name__)
_REOPEN_SECONDS = (0.0, 1.0, 5.0, 15.0)
_STAGED_SECONDS = 300.0  # after memory ran out: others may have taken it, and may give it back
_LAST_STEP_SECONDS = 5.0


class Worker:
    """Works through the queue until it is closed.

    Args:
        load: makes the pipeline; called again when the device was lost.
        backlog: the queue.
        batch: pictures at once, at most; fewer where the engines take fewer.
        metrics: where stages, pictures and failures are counted.
    """

    def __init__(self, load: Callable[[], Pictures], backlog: Backlog, batch: int, metrics: Metrics) -> None:
        self._load, self._backlog, self._metrics = load, backlog, metrics
        self.batch = batch
        self._pipeline: Pictures | None = None
        self._current: list[Job[Any]] = []
        self._lost = False
        self._staged_until: float | None = None  # by time.monotonic
        self._stopped = threading.Event()
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")  # one, so that previews come in order
        self._thread = threading.Thread(target=self._run, name="device-worker", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether there is a pipeline that works."""
        return self._pipeline is not None and self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether something is being made."""
        return bool(self._current)

    @property
    def lost(self) -> bool:
        """Whether its device did not come back."""
        return self._lost

    def start(self) -> None:
        """Open the pipeline, which may raise what it raises, and begin."""
        self._pipeline = self._opened()
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Finish what is queued within so many seconds; what is left then fails, the running batch after its step."""
        self._backlog.close()
        self._thread.join(seconds)
        self._stopped.set()
        for job in self._current:
            job.fail(stopping())
        self._thread.join(_LAST_STEP_SECONDS)
        self._encoder.shutdown()
        if self._pipeline is not None:
            self._pipeline.close()

    def _opened(self) -> Pictures:
        pipeline = self._load()
        self._staged_until = None
        if pipeline.placement is not None:
            self._metrics.watch(pipeline.placement.device)
        if pipeline.most_pictures is not None and pipeline.most_pictures < self.batch:
            logger.warning("the engines take %d at once: batches are no larger", pipeline.most_pictures)
            self.batch = pipeline.most_pictures
        return pipeline

    def _run(self) -> None:
        while (batch := self._backlog.take(self.batch)) is not None:
            if self._stopped.is_set():
                _fail(batch, stopping())
            elif started := [job for job in batch if job.start()]:
                self._current = started
                self._serve(started)
                self._current = []

    def _serve(self, batch: list[Job[Any]]) -> None:
        """Make a batch; a smaller one when memory runs out, one by one when one of them was wrong."""
        try:
            self._make(batch)
        except (MemoryRanOutError, MemoryError) as error:
            self._metrics.faults.labels("out_of_memory").inc()
            self._smaller(batch, error)
        except DeviceLostError as error:
            self._metrics.faults.labels("device_lost").inc()
            _fail(batch, problem_of(error))
            if not self._lost:
                self._reopen()
        except UserError as error:
            if len(batch) > 1:
                for job in batch:
                    self._serve([job])
            else:
                logger.warning("%s: %s", batch[0].id, error)
                _fail(batch, problem_of(error))
        except Exception:
            logger.exception("a batch of %d failed", len(batch))
            self._metrics.faults.labels("unexpected").inc()
            _fail(batch, ApiError(500, "internal_error", "the server failed; its log has more"))

    def _smaller(self, batch: list[Job[Any]], error: Exception) -> None:
        """Half of it at a time; a single job that has said nothing yet once more, with one graph on the device."""
        spoken = batch[0].answer is not None and batch[0].answer.tokens > 0
        half = len(batch) // 2
        if half:
            self._serve(batch[:half])
            self._serve(batch[half:])
        elif not spoken and self._staged_until is None and self._pipeline is not None:
            logger.warning("memory ran out (%s): one graph at a time for %.0f s", error, _STAGED_SECONDS)
            self._pipeline.stage(True)
            self._staged_until = time.monotonic() + _STAGED_SECONDS
            self._serve(batch)
        else:
            _fail(batch, out_of_memory())

    def _reopen(self) -> None:
        """A new pipeline in the place of one whose device is lost; without one, the server is not ready."""
        self._pipeline = None
        for seconds in _REOPEN_SECONDS:
            if self._stopped.wait(seconds):
                return
            try:
                self._pipeline = self._opened()
            except UserError as error:
                logger.warning("the device does not come back: %s", error)
            else:
                return
        logger.error("the device is lost")
        self._lost = True

    def _make(self, batch: list[Job[Any]]) -> None:
        if self._pipeline is None:
            raise DeviceLostError("there is no device", "restart the server")
        if self._staged_until is not None and time.monotonic() > self._staged_until:
            self._pipeline.stage(False)
            self._staged_until = None
        if isinstance(batch[0].work, Talk):
            self._talk(self._pipeline, batch[0])
        else:
            self._paint(self._pipeline, batch)

    def _talk(self, pipeline: Pictures, job: Job[Talk]) -> None:
        """An answer, word by word, as long as somebody listens."""
        talk = job.work
        job.answer = pipeline.describe(
            list(talk.pictures),
            talk.question,
            system=talk.system,
            max_new_tokens=talk.max_tokens,
            temperature=talk.temperature,
            top_p=talk.top_p,
            seed=talk.seed,
        )
        for piece in job.answer:
            job.say(piece)
            if self._stopped.is_set() or job.unwanted:
                job.fail(stopping() if self._stopped.is_set() else too_late())
                return
        self._metrics.tokens.inc(job.answer.tokens)
        job.succeed(())

    def _paint(self, pipeline: Pictures, batch: list[Job[Work]]) -> None:
        first = batch[0].work
        wanted = [(job, seed) for job in batch for seed in job.work.seeds]
        options: dict[str, Any] = {
            "negative_prompt": [job.work.negative_prompt for job, _ in wanted],
            "width": first.width,
            "height": first.height,
            "num_inference_steps": first.steps,
            "guidance_scale": first.guidance,
            "seed": [seed for _, seed in wanted],
            "callback_on_step_end": self._follow(batch),
        }
        prompts = [job.work.prompt for job, _ in wanted]
        pictures = [job.work.picture for job, _ in wanted if job.work.picture is not None]
        if first.task == "edit":
            result = pipeline.edit(pictures, prompts, **options)
        else:
            result = pipeline.generate(prompts, **options)
        self._metrics.observe(first.task, result)
        self._hand_out(batch, result)

    def _follow(self, batch: list[Job[Any]]) -> Callable[[Any, int, float, dict[str, Any]], None]:
        """Tell the jobs of every step, and stop when nobody waits any more."""
        starts = np.cumsum([0, *(len(job.work.seeds) for job in batch)])

        def after_step(pipeline: Any, step: int, timestep: float, values: dict[str, Any]) -> None:
            for job, start in zip(batch, starts, strict=False):
                job.advance(step + 1)
                index = job.work.preview_at(step + 1)
                if index is not None and not job.over:
                    self._preview(pipeline, job, values["denoised"][start : start + 1], index)
            if self._stopped.is_set() or all(job.unwanted for job in batch):
                pipeline.interrupt = True

        return after_step

    def _preview(self, pipeline: Pictures, job: Job[Any], latents: Any, index: int) -> None:
        """The first picture as the model sees it now."""
        picture = pipeline.decode(latents)[0]
        work = job.work
        self._encoder.submit(lambda: job.preview(encode(picture, work.output_format, work.compression, None), index))

    def _hand_out(self, batch: list[Job[Any]], result: Result) -> None:
        """Encode beside the next batch: the device does not wait for it."""
        start, whole = 0, result.steps_done == batch[0].work.steps
        for job in batch:
            end = start + len(job.work.seeds)
            if whole:
                self._encoder.submit(_finish, job, result, slice(start, end))
            else:
                job.fail(stopping() if self._stopped.is_set() else too_late())
            start = end


def _finish(job: Job[Any], result: Result, rows: slice) -> None:
    work = job.work
    try:
        job.succeed(
            tuple(
                encode(picture, work.output_format, work.compression, settings)
                for picture, settings in zip(result.images[rows], result.settings[rows], strict=True)
            )
        )
    except Exception:
        logger.exception("%s could not be encoded", job.id)
        job.fail(ApiError(500, "internal_error", "the server failed; its log has more"))


def _fail(batch: Sequence[Job[Any]], problem: ApiError) -> None:
    for job in batch:
        job.fail(problem)
