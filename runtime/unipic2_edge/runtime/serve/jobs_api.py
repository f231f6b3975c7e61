"""`/v1/jobs`: work that is asked for now and fetched later, cancelled within one step."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from .encoding import media_type
from .images_api import json_answer
from .jobs import Job, Work
from .messages import ErrorBody, JobAnswer, JobList
from .problems import ApiError
from .reading import make_work, read_edit, read_generation
from .state import State


async def start_generation(request: Request) -> Response:
    """A generation as a job."""
    asked, state = await read_generation(request), _state(request)
    return json_answer(_answer(state, state.submit(make_work(asked, state.manifest, state.limits))), 202)


async def start_edit(request: Request) -> Response:
    """An edit as a job."""
    (asked, picture), state = await read_edit(request), _state(request)
    return json_answer(_answer(state, state.submit(make_work(asked, state.manifest, state.limits, picture))), 202)


async def list_jobs(request: Request) -> Response:
    """Every job that is known."""
    state = _state(request)
    return json_answer(JobList(data=[_answer(state, job) for job in state.jobs.all()]))


async def get_job(request: Request) -> Response:
    """Where a job stands."""
    state = _state(request)
    return json_answer(_answer(state, state.jobs.get(request.path_params["id"])))


async def cancel_job(request: Request) -> Response:
    """Nobody wants it any more."""
    state = _state(request)
    job = state.jobs.get(request.path_params["id"])
    job.cancel()
    return json_answer(_answer(state, job))


async def get_picture(request: Request) -> Response:
    """One of a job's pictures, as a file."""
    job = _state(request).jobs.get(request.path_params["id"])
    index = int(request.path_params["index"])
    if index >= len(job.pictures):
        raise ApiError(404, "no_such_picture", f"the job has {len(job.pictures)} pictures ({job.state})", "index")
    return Response(job.pictures[index], media_type=media_type(job.work.output_format))


def _state(request: Request) -> State:
    state: State = request.app.state.server
    return state


def _answer(state: State, job: Job[Work]) -> JobAnswer:
    eta, problem = state.eta(job), job.problem
    return JobAnswer(
        id=job.id,
        state=job.state,
        task=job.work.task,
        created=int(job.created),
        position=state.backlog.position(job),
        eta_seconds=None if eta is None else round(eta, 3),
        step=job.step,
        steps=job.work.steps,
        pictures=[f"/v1/jobs/{job.id}/pictures/{index}" for index in range(len(job.pictures))],
        seeds=list(job.work.seeds),
        error=None if problem is None else ErrorBody(message=problem.message, type="error", code=problem.code),
    )
