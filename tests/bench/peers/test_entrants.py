"""Peers by name, and what keeps those of other libraries from taking part."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from unipic2_edge.bench.peers.doors import ProcessDoor
from unipic2_edge.bench.peers.entrants import (
    Setting,
    bundle_entrants,
    checkpoint_entrant,
    interpreters_of,
    peer_names,
)
from unipic2_edge.bench.peers.peer import CannotError
from unipic2_edge.bench.peers.sdcpp_peer import check_shapes
from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.training.configs import KONTEXT

SETTING = Setting(("generate",), 1, "cpu", {"optimum": sys.executable})


def test_names_say_library_way_and_precision() -> None:
    names = peer_names("eager,compile-bf16,diffusers,diffusers-compile-bf16,sdcpp,eager")
    made = [checkpoint_entrant(name, Path("ck"), SETTING) for name in names]
    assert [entrant.name for entrant in made] == [
        "PyTorch eager fp32",
        "PyTorch torch.compile bf16",
        "diffusers eager fp32",
        "diffusers torch.compile bf16",
        "stable-diffusion.cpp",
    ]
    assert [entrant.settings["compiled"] for entrant in made] == [False, True, False, True, False]
    assert made[1].settings["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["fast", "sdcpp-bf16", "eager-fp8"])
def test_there_is_no_such_peer(name: str) -> None:
    with pytest.raises(RequestError, match="no peer"):
        peer_names(name)


@pytest.mark.parametrize("text", ["optimum", "eager=/usr/bin/python3", "optimum=/no/such/file"])
def test_an_interpreter_is_of_a_peer_and_is_there(text: str) -> None:
    with pytest.raises(RequestError, match="interpreter"):
        interpreters_of([text])


def test_a_peer_in_a_bare_interpreter_says_what_is_missing(tiny_checkpoint: Path) -> None:
    with pytest.raises(CannotError, match=r"optimum-onnx is not installed here .*--python optimum=PATH"):
        ProcessDoor(checkpoint_entrant("optimum", tiny_checkpoint, SETTING))


def test_other_shapes_than_sd35_medium_are_told_before_stable_diffusion_cpp_aborts(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(CannotError, match=r"transformer's num_layers 2 is not 24"):
        check_shapes(tiny_checkpoint)
    full = KONTEXT["unipic2-sd3.5m-kontext"]
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(getattr(full, part)), encoding="utf-8")
    with pytest.raises(CannotError, match="has no transformer/diffusion_pytorch_model"):
        check_shapes(tmp_path)  # its shapes are right


def test_bundles_stand_with_recipe_and_backend(tiny_bundle: Path) -> None:
    made = bundle_entrants([tiny_bundle], ["auto", "openvino-bf16"], SETTING)
    assert [entrant.name for entrant in made] == ["tiny-bundle (fp32), as served", "tiny-bundle (fp32), OpenVINO, bf16"]
    with pytest.raises(RequestError, match="give each bundle once"):
        bundle_entrants([tiny_bundle, tiny_bundle], ["auto"], SETTING)
    with pytest.raises(RequestError, match="no backend"):
        bundle_entrants([tiny_bundle], ["fast"], SETTING)
