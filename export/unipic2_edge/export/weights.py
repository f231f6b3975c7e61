"""Weights as one safetensors file a component, written tensor by tensor, and read as ONNX external data.

The file is at once a valid safetensors file and, by offset, the external data of every graph of its component.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
import onnx_ir as ir

from unipic2_edge.runtime.bundle import FileEntry
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
    ir.DataType.FLOAT8E4M3FN: "F8_E4M3",
}
#: Two to a byte, for which safetensors has no name that all its readers know: stored as bytes.
_PACKED = (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.FLOAT4E2M1)
_ALIGNMENT = 64  # of the first tensor's offset in the file, for memory mapping
_QUEUED = 1 << 25  # bytes
EXTERNAL_FROM = 256  # bytes; smaller constants stay in the graph, where shape inference can see them


@dataclass(frozen=True)
class WrittenWeights:
    """A weights file: each tensor's (offset, length) in it, in bytes, and what the manifest says of the file."""

    places: dict[str, tuple[int, int]]
    entry: FileEntry


def write_weights(path: Path, tensors: Mapping[str, ir.TensorProtocol]) -> WrittenWeights:
    """Write tensors in name order, hashing them on the way.

    Lazy tensors are read one after another, and let go once they are written: beside the one being read, at most
    32 MiB and one tensor are held.

    Raises:
        OutputError, WorkError: the file cannot be written.
    """
    header, start = _header(tensors)
    places: dict[str, tuple[int, int]] = {}
    with replacing(path) as temporary, temporary.open("wb", buffering=0) as file, _HashedFile(file) as stream:
        stream.write(memoryview(len(header).to_bytes(8, "little") + header))
        for name in sorted(tensors):
            data = _bytes_of(tensors[name])
            places[name] = (stream.size, len(data))
            stream.write(data)
        entry = stream.finish()
    if places and min(place[0] for place in places.values()) != start:
        raise RuntimeError("the safetensors header and its data disagree")  # a bug, not a user's mistake
    return WrittenWeights(places, entry)


class _HashedFile:
    """A file that one thread writes and another hashes, in order, while the caller makes the next bytes."""

    def __init__(self, file: FileIO) -> None:
        self.size = 0  # with what is still to be written
        self._file, self._digest = file, hashlib.sha256()
        self._writer, self._hasher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._pending: deque[tuple[int, Future[None], Future[None]]] = deque()

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(cancel_futures=True)
        self._hasher.shutdown(cancel_futures=True)

    def write(self, data: memoryview) -> None:
        """Queue a buffer of bytes; waits while more than `_QUEUED` bytes stand before it."""
        while sum(size for size, *_ in self._pending) > _QUEUED:
            self._wait()
        written, hashed = self._writer.submit(self._write, data), self._hasher.submit(self._digest.update, data)
        self._pending.append((len(data), written, hashed))
        self.size += len(data)

    def finish(self) -> FileEntry:
        """Wait for all buffers; what the manifest says of the file."""
        while self._pending:
            self._wait()
        return FileEntry(sha256=self._digest.hexdigest(), bytes=self.size)

    def _wait(self) -> None:
        """For the oldest buffer."""
        _, *futures = self._pending.popleft()
        for future in futures:
            future.result()

    def _write(self, data: memoryview) -> None:
        while data:  # an unbuffered write may take a part only
            data = data[self._file.write(data) :]


def _bytes_of(tensor: ir.TensorProtocol) -> memoryview:
    """A tensor's bytes in C order, without a copy where it is contiguous."""
    if tensor.dtype in _PACKED:
        return memoryview(tensor.tobytes())
    array = np.ascontiguousarray(tensor.numpy())
    return array.reshape(-1).view(np.uint8).data


def _header(tensors: Mapping[str, ir.TensorProtocol]) -> tuple[bytes, int]:
    entries: dict[str, object] = {"__metadata__": {"format": "onnx-external-data"}}
    offset = 0
    for name in sorted(tensors):
        value = tensors[name]
        end = offset + value.nbytes
        entries[name] = {
            "dtype": "U8" if value.dtype in _PACKED else _DTYPES[value.dtype],
            "shape": [value.nbytes] if value.dtype in _PACKED else list(value.shape.numpy()),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(entries, separators=(",", ":")).encode()
    encoded += b" " * (-(8 + len(encoded)) % _ALIGNMENT)
    return encoded, 8 + len(encoded)
