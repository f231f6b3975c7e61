"""Stand-in peers: a module that any door can open, whose peers work, sleep, fail or die as they are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unipic2_edge.bench.peers.doors import Entrant
from unipic2_edge.bench.peers.peer import Job

MODULE = """
import os, time
import numpy as np
from unipic2_edge.bench.peers.peer import CannotError, Made, Peer

class StandIn(Peer):
    def __init__(self, settings):
        self.settings, self.now = settings, 0.0
        if "work" in settings:
            self.clock = lambda: self.now  # stands still but for the work

    def make(self, job):
        print("libraries print what they like")
        self.now += self.settings.get("work", 0)
        time.sleep(self.settings.get("sleep", 0))
        fault = self.settings.get("fault")
        if fault == "dies":
            os._exit(7)
        if fault == "hangs":
            time.sleep(60)
        if fault == "raises":
            raise ValueError("no such shape\\nin the second line")
        if fault == "cannot":
            raise CannotError(f"{job.task}: not this one")
        picture = np.clip(128 + 40 * job.latents[0, :3], 0, 255).astype(np.uint8).transpose(1, 2, 0)
        return Made(job.latents * self.settings.get("scale", 1), picture)

    def about(self):
        return {"threads": os.environ.get("OMP_NUM_THREADS", "")}

def open_peer(settings):
    if settings.get("fault") == "does not load":
        raise ImportError("no library here")
    return StandIn(settings)
"""


@pytest.fixture
def entrant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Entrant]:
    """Makes an entrant of the stand-in, by name and settings."""
    (tmp_path / "stand_in_peer.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str = "stand-in", **settings: object) -> Entrant:
        return Entrant(name, "stand_in_peer", dict(settings), threads=1)

    return make


@pytest.fixture
def jobs() -> list[Job]:
    """Five generations of different noise: the first warms up."""
    random = np.random.default_rng(1)
    return [
        Job("generate", random.standard_normal((1, 4, 16, 16), dtype=np.float32), "words", seed=index)
        for index in range(5)
    ]
