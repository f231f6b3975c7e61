"""ONNX graphs whose weights are already in memory: external data by address instead of by file.

OpenVINO looks for external data beside the graph's file, and a bundle keeps graphs and weights apart. It also takes
data that its caller has in memory: ONNX Runtime hands it graphs like that, in which the location is a marker and the
offset an address. Only those two strings of each tensor change here, along the way ModelProto.graph (field 7) →
GraphProto.initializer (5) → TensorProto.external_data (13), see onnx.proto; everything else is copied as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

MARKER = b"*/_ORT_MEM_ADDR_/*"
_EXTERNAL_DATA = (7, 5, 13)
_KEY, _VALUE = 1, 2  # of a StringStringEntryProto
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


def in_memory(model: bytes, file: str, address: int) -> bytes:
    """A graph that finds its weights in memory.

    Args:
        model: the serialised ModelProto.
        file: the bare name of the weights file that it refers to.
        address: where that file's bytes begin in memory.

    Raises:
        ValueError: it is no ModelProto, or it refers to another file.
    """
    return _rewritten(model, _EXTERNAL_DATA, lambda entry: _entry(entry, file.encode(), address))


def _entry(entry: bytes, file: bytes, address: int) -> bytes:
    fields = {number: content for number, content, _ in _fields(entry)}
    key, value = fields.get(_KEY, b""), fields.get(_VALUE, b"")
    if key == b"location":
        if value != file:
            raise ValueError(f"it has weights in {value.decode(errors='replace')}, not in {file.decode()}")
        value = MARKER
    elif key == b"offset":
        value = str(int(value) + address).encode()
    return _delimited(_KEY, key) + _delimited(_VALUE, value)


def _rewritten(message: bytes, path: tuple[int, ...], change: Callable[[bytes], bytes]) -> bytes:
    """A message in which every field at the end of `path` was changed."""
    parts = []
    for number, content, whole in _fields(message):
        if number != path[0]:
            parts.append(whole)
        elif len(path) == 1:
            parts.append(_delimited(number, change(content)))
        else:
            parts.append(_delimited(number, _rewritten(content, path[1:], change)))
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """A message's fields: number, content where it has a length of its own, and all of its bytes."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _read_varint(message, position)
        content = b""
        if tag & 7 == _DELIMITED:
            length, position = _read_varint(message, position)
            content = message[position : position + length]
            position += length
        elif tag & 7 == _VARINT:
            _, position = _read_varint(message, position)
        elif tag & 7 in (_FIXED64, _FIXED32):
            position += 8 if tag & 7 == _FIXED64 else 4
        else:
            raise ValueError("it is no ONNX graph")
        if position > len(message):
            raise ValueError("it ends in the middle")
        yield tag >> 3, content, message[start:position]


def _delimited(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
    raise ValueError("it ends in the middle, or is no ONNX graph")
