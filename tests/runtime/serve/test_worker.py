"""The queue and the device: batches, cancellation, deadlines, faults, and how it all ends."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from unipic2_edge.runtime.bundle import Manifest
from unipic2_edge.runtime.errors import DeviceLostError, MemoryRanOutError, RequestError, WorkError
from unipic2_edge.runtime.serve.server import Opening, Place, Server, serve

from .conftest import QUICK, FakePipeline, Running, running


def _ask(server: Running, seed: int = 1, **fields: Any) -> httpx.Response:
    with server.client() as client:
        return client.post("/v1/images/generations", json={"prompt": "a ring", "seed": seed, **fields})


def _until(true: Any) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_requests_of_one_shape_are_made_together(server: Running, fake: FakePipeline) -> None:
    fake.hold.clear()
    with ThreadPoolExecutor(12) as pool:
        first = pool.submit(_ask, server, 1)
        _until(lambda: server.state.worker._current)
        others = [pool.submit(_ask, server, seed) for seed in range(2, 9)]
        wide = pool.submit(_ask, server, 9, size="48x32")
        _until(lambda: len(server.state.backlog) == 8)
        fake.hold.set()
        answers = [future.result() for future in (first, *others, wide)]
    assert [answer.status_code for answer in answers] == [200] * 9
    assert [answer.json()["data"][0]["seed"] for answer in answers] == list(range(1, 10))
    assert sorted(fake.batches) == [1, 1, 3, 4]


def test_a_full_queue_says_so(manifest: Manifest, fake: FakePipeline) -> None:
    with running(manifest, lambda: fake, replace(QUICK, waiting=2)) as server:
        fake.hold.clear()
        with ThreadPoolExecutor(3) as pool:
            taken = [pool.submit(_ask, server)]
            _until(lambda: server.state.worker._current)
            taken += [pool.submit(_ask, server) for _ in range(2)]
            _until(lambda: len(server.state.backlog) == 2)
            refused = _ask(server)
            fake.hold.set()
            assert [future.result().status_code for future in taken] == [200] * 3
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1


def test_a_request_that_waits_too_long_is_given_up(manifest: Manifest, fake: FakePipeline) -> None:
    with running(manifest, lambda: fake, replace(QUICK, seconds=0.4)) as server:
        fake.step_seconds = 0.05
        answer = _ask(server, num_inference_steps=100)
        assert answer.status_code == 408
        assert answer.json()["error"]["code"] == "timeout"
        _until(lambda: not server.state.worker._current)
        assert _ask(server, num_inference_steps=2).status_code == 200


def test_a_client_that_hangs_up_stops_the_work_after_a_step(server: Running, fake: FakePipeline) -> None:
    fake.step_seconds = 0.05
    with server.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/images/generations", json={"prompt": "a ring", "num_inference_steps": 100}, timeout=0.5)
    start = time.monotonic()
    _until(lambda: not server.state.worker._current)
    assert time.monotonic() - start < 2


def test_a_job_is_followed_and_fetched(server: Running, fake: FakePipeline) -> None:
    fake.step_seconds = 0.02
    with server.client() as client:
        started = client.post("/v1/jobs/generations", json={"prompt": "a ring", "n": 2, "seed": 4})
        assert started.status_code == 202
        job = started.json()
        assert job["state"] in ("queued", "running")
        _until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded")
        done = client.get(f"/v1/jobs/{job['id']}").json()
        assert done["seeds"] == [4, 5]
        picture = client.get(done["pictures"][1])
        assert picture.headers["content-type"] == "image/png"
        assert client.get(f"/v1/jobs/{job['id']}/pictures/2").status_code == 404
        assert [known["id"] for known in client.get("/v1/jobs").json()["data"]] == [job["id"]]
        assert client.get("/v1/jobs/job-none").status_code == 404


def test_a_job_is_cancelled_within_a_step(server: Running, fake: FakePipeline) -> None:
    fake.step_seconds = 0.1
    with server.client() as client:
        body = {"prompt": "a ring", "num_inference_steps": 100}
        running_job, waiting_job = (
            client.post("/v1/jobs/generations", json=body | {"size": size}).json() for size in ("32x32", "48x32")
        )
        _until(lambda: client.get(f"/v1/jobs/{running_job['id']}").json()["step"] > 0)
        assert client.get(f"/v1/jobs/{waiting_job['id']}").json()["position"] == 0
        assert client.delete(f"/v1/jobs/{waiting_job['id']}").json()["state"] == "cancelled"
        assert client.delete(f"/v1/jobs/{running_job['id']}").json()["state"] == "cancelled"
        start = time.monotonic()
        _until(lambda: not server.state.worker._current)
        assert time.monotonic() - start < 1
    assert len(fake.batches) == 1


def test_finished_jobs_are_forgotten(manifest: Manifest, fake: FakePipeline) -> None:
    with running(manifest, lambda: fake, replace(QUICK, kept_seconds=0.2)) as server, server.client() as client:
        job = client.post("/v1/jobs/generations", json={"prompt": "a ring"}).json()["id"]
        _until(lambda: client.get(f"/v1/jobs/{job}").status_code == 404)


def test_memory_that_runs_out_makes_smaller_batches(server: Running, fake: FakePipeline) -> None:
    fake.hold.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(_ask, server)
        _until(lambda: server.state.worker._current)
        others = [pool.submit(_ask, server, seed) for seed in range(4)]
        _until(lambda: len(server.state.backlog) == 4)
        fake.faults = [WorkError("nothing", ""), MemoryRanOutError("no memory", "")]
        fake.hold.set()
        assert first.result().status_code == 500
        assert [future.result().status_code for future in others] == [200] * 4
    assert fake.batches == [1, 4, 2, 2]
    assert fake.closed == 0


@pytest.mark.parametrize("error", [MemoryRanOutError("no memory", ""), MemoryError()])
def test_memory_that_runs_out_for_one_picture_stages_the_graphs(
    server: Running, fake: FakePipeline, error: Exception
) -> None:
    fake.faults = [error]
    assert _ask(server).status_code == 200
    assert fake.staged == [True]
    fake.faults = [error]
    answer = _ask(server)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "out_of_memory")
    assert answer.headers["retry-after"]
    assert _ask(server).status_code == 200
    assert fake.staged == [True]


def test_after_a_while_the_graphs_stay_again(
    server: Running, fake: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unipic2_edge.runtime.serve.worker._STAGED_SECONDS", 0.0)
    fake.faults = [MemoryRanOutError("no memory", "")]
    assert [_ask(server).status_code for _ in range(2)] == [200, 200]
    assert fake.staged[0] and not fake.staged[-1]


def test_batches_are_no_larger_than_the_engines_take(manifest: Manifest, fake: FakePipeline) -> None:
    fake.most_pictures = 2
    with running(manifest, lambda: fake) as server:
        fake.hold.clear()
        with ThreadPoolExecutor(6) as pool:
            first = pool.submit(_ask, server)
            _until(lambda: server.state.worker.busy)
            others = [pool.submit(_ask, server, seed) for seed in range(4)]
            _until(lambda: len(server.state.backlog) == 4)
            fake.hold.set()
            assert [future.result().status_code for future in (first, *others)] == [200] * 5
    assert fake.batches == [1, 2, 2]


def test_a_lost_device_is_opened_again(manifest: Manifest) -> None:
    made: list[FakePipeline] = []

    def load() -> FakePipeline:
        if len(made) == 1:
            made.append(FakePipeline())
            raise WorkError("not yet", "wait")
        made.append(FakePipeline())
        return made[-1]

    with running(manifest, load) as server:
        made[0].faults = [DeviceLostError("gone", "")]
        answer = _ask(server)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "device_lost")
        with server.client() as client:
            assert client.get("/health/ready").status_code == 503
            _until(lambda: client.get("/health/ready").status_code == 200)
        assert _ask(server).status_code == 200
    assert len(made) == 3


def test_a_device_that_does_not_come_back_ends_the_server(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unipic2_edge.runtime.serve.worker._REOPEN_SECONDS", (0.0, 0.5))
    made: list[FakePipeline] = []

    def load() -> FakePipeline:
        if made:
            raise WorkError("gone for good", "")
        made.append(FakePipeline())
        return made[0]

    with running(manifest, load) as server, ThreadPoolExecutor(2) as pool:
        made[0].hold.clear()
        answers = [pool.submit(_ask, server, seed) for seed in range(2)]
        _until(lambda: len(server.state.backlog) + len(server.state.worker._current) == 2)
        made[0].faults = [DeviceLostError("gone", "")] * 2
        made[0].hold.set()
        assert {future.result().status_code for future in answers} == {503}
        _until(lambda: server.state.worker.lost)
        _until(lambda: server.state.draining)  # the loop has seen it: no supervisor has to
    assert not server.state.ready


def test_the_command_takes_the_place_of_a_server_without_a_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anew: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, words: anew.append(words))
    monkeypatch.setattr(Server, "run", lambda self: setattr(self._state.worker, "_lost", True))
    serve(folder, Place(port=0), Opening("cpu", 1), QUICK)
    assert anew == [[sys.executable, *sys.orig_argv[1:]]]


def test_what_a_job_waits_for_is_told(manifest: Manifest, fake: FakePipeline) -> None:
    fake.step_seconds = 0.05
    with running(manifest, lambda: fake, replace(QUICK, batch=1)) as server, server.client() as client:
        assert _ask(server, num_inference_steps=4).status_code == 200  # 0.2 s, from which the others are foretold
        fake.hold.clear()
        body = {"prompt": "a ring", "num_inference_steps": 4}
        jobs = [client.post("/v1/jobs/generations", json=body).json()["id"] for _ in range(3)]
        _until(lambda: server.state.worker.busy)
        found = [client.get(f"/v1/jobs/{job}").json() for job in jobs]
        assert [job["position"] for job in found] == [None, 0, 1]
        assert all(job["eta_seconds"] > 0.19 * (number + 1) for number, job in enumerate(found))
        start = time.monotonic()
        fake.hold.set()
        _until(lambda: client.get(f"/v1/jobs/{jobs[-1]}").json()["state"] == "succeeded")
        assert found[-1]["eta_seconds"] < 4 * (time.monotonic() - start)


def test_one_wrong_prompt_does_not_fail_the_others(server: Running, fake: FakePipeline) -> None:
    fake.hold.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(_ask, server)
        _until(lambda: server.state.worker._current)
        pair = [pool.submit(_ask, server, seed) for seed in (2, 3)]
        _until(lambda: len(server.state.backlog) == 2)
        error = RequestError("the prompt is too long", "shorten it")
        fake.faults = [WorkError("x", ""), error, error]  # the first alone, the pair, and one of the two
        fake.hold.set()
        codes = sorted(future.result().status_code for future in (first, *pair))
    assert codes == [200, 400, 500]


def test_an_unexpected_error_is_an_answer_without_internals(server: Running, fake: FakePipeline) -> None:
    fake.faults = [ZeroDivisionError("/secret/path")]
    answer = _ask(server)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert _ask(server).status_code == 200


def test_stopping_finishes_what_is_queued(manifest: Manifest, fake: FakePipeline) -> None:
    answers: list[httpx.Response] = []
    with running(manifest, lambda: fake) as server:
        fake.hold.clear()
        threads = [threading.Thread(target=lambda: answers.append(_ask(server))) for _ in range(3)]
        for thread in threads:
            thread.start()
        _until(lambda: len(server.state.backlog) + len(server.state.worker._current) == 3)
        threading.Timer(0.3, fake.hold.set).start()
    for thread in threads:
        thread.join(10)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert fake.closed == 1


def test_a_stop_waits_for_jobs_no_longer_than_it_may(manifest: Manifest, fake: FakePipeline) -> None:
    with running(manifest, lambda: fake, replace(QUICK, drain_seconds=0.5)) as server, server.client() as client:
        fake.step_seconds = 0.1
        body = {"prompt": "a ring", "num_inference_steps": 2}
        short = client.post("/v1/jobs/generations", json=body).json()["id"]
        _until(lambda: server.state.worker.busy)
        long = client.post("/v1/jobs/generations", json=body | {"num_inference_steps": 100}).json()["id"]
        jobs = server.state.jobs.get(short), server.state.jobs.get(long)
        start = time.monotonic()
    assert time.monotonic() - start < 4
    assert [job.state for job in jobs] == ["succeeded", "failed"]
    assert jobs[1].problem is not None and jobs[1].problem.code == "stopping"


def test_figures_are_told(server: Running) -> None:
    _ask(server)
    with server.client() as client:
        text = client.get("/metrics").text
    assert 'unipic2_pictures_total{task="generate"} 1.0' in text
    assert 'unipic2_answers_total{path="/v1/images/generations",status="200"} 1.0' in text
    assert "unipic2_queue_depth 0.0" in text
