"""Two replicas behind Ray Serve on this machine, one of them killed under load."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.serve.fleet import fleet_settings

ray = pytest.importorskip("ray")


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


def _kill_one_replica() -> None:
    names = [named for named in ray.util.list_named_actors(all_namespaces=True) if "SERVE_REPLICA" in named["name"]]
    assert len(names) == 2
    ray.kill(ray.get_actor(names[0]["name"], namespace=names[0]["namespace"]))


@pytest.mark.slow
def test_a_killed_replica_costs_at_most_what_it_had_in_hand(fleet: str) -> None:
    with httpx.Client(base_url=fleet, timeout=60) as client:
        assert client.get("/health/ready").status_code == 200
        assert client.get("/v1/jobs").status_code == 404

        def ask(seed: int) -> int:
            body = {"prompt": "a red circle", "seed": seed, "num_inference_steps": 20}
            return client.post("/v1/images/generations", json=body).status_code

        with ThreadPoolExecutor(8) as pool:
            before = list(pool.map(ask, range(40)))
            asked = [pool.submit(ask, seed) for seed in range(160)]
            _kill_one_replica()
            during = Counter(future.result() for future in asked)
        assert before == [200] * 40
        assert sum(during.values()) == 160  # every one was answered
        assert during[200] >= 160 - 8  # at most those that it had in hand
        deadline = time.monotonic() + 60
        while ask(1) != 200:
            assert time.monotonic() < deadline
        assert Counter(map(ask, range(20))) == {200: 20}
