"""Weights as one safetensors file a component, written tensor by tensor, and read as ONNX external data.

The file is at once a valid safetensors file and, by offset, the external data of every graph of its component.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from unipic2_edge.runtime.files import replacing

#: ONNX's names of element types that safetensors also has.
_DTYPES = {
    ir.DataType.FLOAT: "F32",
    ir.DataType.FLOAT16: "F16",
    ir.DataType.BFLOAT16: "BF16",
    ir.DataType.DOUBLE: "F64",
    ir.DataType.INT64: "I64",
    ir.DataType.INT32: "I32",
    ir.DataType.INT8: "I8",
    ir.DataType.UINT8: "U8",
    ir.DataType.BOOL: "BOOL",
}
_ALIGNMENT = 64  # of the first tensor's offset in the file, for memory mapping
EXTERNAL_FROM = 256  # bytes; smaller constants stay in the graph, where shape inference can see them


def write_weights(path: Path, tensors: Mapping[str, ir.Tensor[Any]]) -> dict[str, tuple[int, int]]:
    """Write tensors in name order; return each one's (offset, length) in the file, in bytes.

    At most one tensor is held in memory beside the originals.

    Raises:
        OutputError, WorkError: the file cannot be written.
    """
    header, start = _header(tensors)
    places: dict[str, tuple[int, int]] = {}
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for name in sorted(tensors):
            offset = stream.tell()
            tensors[name].tofile(stream)
            places[name] = (offset, stream.tell() - offset)
    if places and min(place[0] for place in places.values()) != start:
        raise RuntimeError("the safetensors header and its data disagree")  # a bug, not a user's mistake
    return places


def _header(tensors: Mapping[str, ir.Tensor[Any]]) -> tuple[bytes, int]:
    entries: dict[str, object] = {"__metadata__": {"format": "onnx-external-data"}}
    offset = 0
    for name in sorted(tensors):
        value = tensors[name]
        end = offset + value.nbytes
        entries[name] = {
            "dtype": _DTYPES[value.dtype],
            "shape": list(value.shape.numpy()),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(entries, separators=(",", ":")).encode()
    encoded += b" " * (-(8 + len(encoded)) % _ALIGNMENT)
    return encoded, 8 + len(encoded)
