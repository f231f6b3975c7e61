"""External data by address: the strings that change, and what is no graph."""

from __future__ import annotations

import onnx
import pytest

from unipic2_edge.engines.in_memory import MARKER, in_memory
from unipic2_edge.runtime.bundle import Bundle

ADDRESS = 0x7F00_0000_0000


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


@pytest.mark.parametrize("graph", ["line", "picture"])
def test_only_where_the_weights_are_changes(bundle: Bundle, graph: str) -> None:
    model = bundle.read(f"graphs/{graph}.onnx")
    before = onnx.load_from_string(model)
    after = onnx.load_from_string(in_memory(model, f"{graph}.safetensors", ADDRESS))
    for old, new in zip(before.graph.initializer, after.graph.initializer, strict=True):
        was, entries = _entries(old), _entries(new)
        assert entries["location"] == MARKER.decode()
        assert int(entries["offset"]) == ADDRESS + int(was["offset"])
        assert entries["length"] == was["length"]
        new.ClearField("external_data")
        old.ClearField("external_data")
    assert after == before


def test_a_graph_without_weights_of_its_own_stays_as_it_is(bundle: Bundle) -> None:
    model = onnx.load_from_string(bundle.read("graphs/line.onnx"))
    del model.graph.initializer[:]
    data = model.SerializeToString()
    assert in_memory(data, "line.safetensors", ADDRESS) == data


def test_weights_in_another_file_are_refused(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match=r"weights in line\.safetensors, not in other\.safetensors"):
        in_memory(bundle.read("graphs/line.onnx"), "other.safetensors", ADDRESS)


def test_what_is_cut_off_anywhere_never_passes_for_the_whole(bundle: Bundle) -> None:
    model = bundle.read("graphs/line.onnx")
    whole = in_memory(model, "line.safetensors", ADDRESS)
    for length in range(len(model)):
        try:
            assert in_memory(model[:length], "line.safetensors", ADDRESS) != whole
        except ValueError:
            continue


@pytest.mark.parametrize("data", [b"\xff" * 12, b"\x0b", b"\x3a\xff\x01"])
def test_what_is_no_graph_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="it "):
        in_memory(data, "line.safetensors", ADDRESS)
