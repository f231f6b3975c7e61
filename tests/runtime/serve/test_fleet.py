"""Two replicas behind Ray Serve on this machine, one of them killed under load."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.serve.fleet import fleet_settings

ray = pytest.importorskip("ray")
CLIENTS = 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "missing required field `bundle`"),
        ({"bundle": "b", "replicas": 2}, "unknown field `replicas`"),
        ({"bundle": "b", "gpus": "many"}, "gpus"),
        ({"bundle": "b", "min_replicas": 3, "max_replicas": 2}, "3 to 2 replicas"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as refused:
        fleet_settings(arguments)
    assert said in refused.value.problem


def test_any_host_is_known_where_a_key_is_asked_for() -> None:
    assert fleet_settings({"bundle": "b", "key": "k"}).hosts[-1] == "*"
    assert "*" not in fleet_settings({"bundle": "b"}).hosts
    assert fleet_settings({"bundle": "b", "key": "k", "allow_host": "Box"}).hosts[-1] == "box"


@pytest.fixture
def fleet(folder: Path) -> Iterator[str]:
    """Two replicas on a free port."""
    from ray import serve

    from unipic2_edge.runtime.serve.fleet import application

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    arguments = {"bundle": str(folder), "device": "cpu", "threads": "1", "min_replicas": "2", "max_replicas": "2"}
    serve.run(application(arguments))
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


def _replicas() -> dict[str, str]:
    """The replicas' actors and their namespaces."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return {actor["name"]: actor["namespace"] for actor in named if "SERVE_REPLICA" in actor["name"]}


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_replica_costs_at_most_what_it_had_in_hand(
    fleet: str, record_property: Callable[[str, object], None]
) -> None:
    replaced = threading.Event()
    with httpx.Client(base_url=fleet, timeout=60) as client:
        assert client.get("/health/ready").status_code == 200
        assert client.get("/v1/jobs").status_code == 404

        def ask(seed: int) -> int:
            body = {"prompt": "a red circle", "seed": seed, "num_inference_steps": 50}
            return client.post("/v1/images/generations", json=body).status_code

        def ask_on(seed: int) -> list[int]:
            found = []
            while not replaced.is_set():
                found.append(ask(seed))
            return found

        with ThreadPoolExecutor(CLIENTS) as pool:
            assert Counter(pool.map(ask, range(40))) == {200: 40}
            asked = [pool.submit(ask_on, seed) for seed in range(CLIENTS)]
            before = _replicas()
            assert len(before) == 2
            killed = next(iter(before))
            ray.kill(ray.get_actor(killed, namespace=before[killed]))
            try:
                _until(lambda: killed not in _replicas() and len(_replicas()) == 2)
            finally:
                replaced.set()
            during = Counter(status for future in asked for status in future.result())  # every one was answered
        record_property("statuses", dict(during))  # in the report of pytest's --junit-xml
        assert set(during) <= {200, 500, 503}
        assert during.total() - during[200] <= CLIENTS  # at most those that it had in hand
        assert during[200] > CLIENTS
        _until(lambda: ask(1) == 200)
        assert Counter(map(ask, range(20))) == {200: 20}
