"""The pool: each graph opened once, graphs that take turns closed for each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import BundleError
from unipic2_edge.runtime.opening import open_session
from unipic2_edge.runtime.pool import SessionPool
from unipic2_edge.runtime.session import Session


class _Recorded:
    """A session that writes down its opening and closing."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        log.append(f"+{name}")

    def close(self) -> None:
        self.log.append(f"-{self.name}")


def _recorder(log: list[str]) -> Callable[[str], Session]:
    return lambda name: _Recorded(name, log)  # type: ignore[return-value]


def _opener(bundle: Bundle) -> Callable[[str], Session]:
    return lambda name: open_session(bundle, name, "cpu", 1)


def test_a_pool_opens_each_graph_once(bundle: Bundle) -> None:
    log: list[str] = []
    pool = SessionPool(bundle, _recorder(log))
    pool.open_ahead(["denoiser", "modulation"])
    assert pool["denoiser"] is pool["denoiser"]
    assert pool["modulation"] is not pool["denoiser"]
    assert sorted(log) == ["+denoiser", "+modulation"]


def test_a_pool_starts_nothing_when_a_graph_is_missing(bundle: Bundle) -> None:
    del bundle.manifest.graphs["vae_encoder"]
    pool = SessionPool(bundle, _opener(bundle))
    with pytest.raises(BundleError, match="no graph 'vae_encoder'"):
        pool.open_ahead(["denoiser", "vae_encoder"])
    assert pool._opening == {}


def test_a_pool_tries_again_after_the_user_mended_it(folder: Path) -> None:
    path = folder / "weights/vae.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    pool = SessionPool(Bundle(folder), _opener(Bundle(folder)))
    with pytest.raises(BundleError, match="damaged"):
        pool["vae_decoder"]
    path.write_bytes(whole)
    pool = SessionPool(Bundle(folder), _opener(Bundle(folder)))
    assert pool["vae_decoder"].graph.component == "vae"


def test_graphs_that_take_turns_close_each_other_and_the_others_stay(bundle: Bundle) -> None:
    log: list[str] = []
    pool = SessionPool(bundle, _recorder(log), turns={"text_encoder": "words", "modulation": "steps"})
    pool.open_ahead(["text_encoder", "modulation", "denoiser"])
    for name in ("text_encoder", "modulation", "denoiser", "text_encoder"):
        pool[name]
    assert [entry for entry in log if "denoiser" in entry] == ["+denoiser"]
    assert [entry for entry in log if "denoiser" not in entry] == [
        "+text_encoder",
        "-text_encoder",
        "+modulation",
        "-modulation",
        "+text_encoder",
    ]


def test_graphs_of_one_turn_are_there_together(bundle: Bundle) -> None:
    log: list[str] = []
    turns = {"text_encoder": "words", "text_encoder_2": "words", "denoiser": "steps"}
    pool = SessionPool(bundle, _recorder(log), turns=turns)
    for name in ("text_encoder", "text_encoder_2", "text_encoder", "denoiser"):
        pool[name]
    assert sorted(log[:2]) == ["+text_encoder", "+text_encoder_2"]
    assert sorted(log[2:4]) == ["-text_encoder", "-text_encoder_2"]
    assert log[4:] == ["+denoiser"]


def test_what_was_closed_is_opened_again(bundle: Bundle) -> None:
    log: list[str] = []
    pool = SessionPool(bundle, _recorder(log))
    pool["denoiser"]
    pool.close()
    pool["denoiser"]
    assert log == ["+denoiser", "-denoiser", "+denoiser"]
