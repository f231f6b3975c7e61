"""A graph's weights as they lie in the bundle: names and places in the component's safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import BundleError


class _Entry(msgspec.Struct):
    """One entry of a safetensors header; offsets count from the header's end."""

    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in the weights file, in bytes, and its shape."""

    offset: int
    length: int
    shape: tuple[int, ...]


def graph_weights(bundle: Bundle, graph: str) -> dict[str, Tensor]:
    """Every tensor that a graph names, as it lies in the component's weights file.

    Reads the file's header alone and checks no hash: `Bundle.weights` does that before the weights are used.

    Raises:
        BundleError: the graph is damaged, or the weights file is not one of safetensors.
    """
    signature = bundle.graph(graph)
    path = bundle.folder / bundle.manifest.components[signature.component].weights
    model = bundle.read(signature.file)
    start, tensors = _header(path)
    return {
        name: Tensor(start + entry.data_offsets[0], entry.data_offsets[1] - entry.data_offsets[0], entry.shape)
        for name, entry in tensors.items()
        if _as_stored(name) in model
    }


def weights_bytes(bundle: Bundle, graph: str) -> int:
    """How large a graph's weights are."""
    return sum(tensor.length for tensor in graph_weights(bundle, graph).values())


def _as_stored(name: str) -> bytes:
    """A name as a graph's file holds it, its length before it: no longer name that begins with it is taken for it."""
    data, length, prefix = name.encode(), len(name.encode()), b""
    while length > 127:  # protobuf's variable-length integers
        prefix, length = prefix + bytes([length & 127 | 128]), length >> 7
    return prefix + bytes([length]) + data


def _header(path: Path) -> tuple[int, dict[str, _Entry]]:
    """Where the data start, and every tensor's entry."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            entries = msgspec.json.decode(stream.read(length), type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        tensors = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in entries.items()}
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise BundleError(f"{path} is damaged: {error}", "export the checkpoint again") from error
    return 8 + length, tensors
