"""What a server must refuse without paying for it: sent to one, with what its memory grew by."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import psutil

_SECONDS = 600


@dataclass(frozen=True)
class Attack:
    """What came of it: the status (or the error, where the server closed the door), and the server's memory.

    Attributes:
        grown_bytes: by which the server's peak grew.
        peak_bytes: the most it has held so far.
    """

    status: str
    grown_bytes: float
    peak_bytes: float


def attacked(url: str, process: psutil.Process) -> Iterator[tuple[str, Attack]]:
    """A picture that unpacks to 243 MB, and 300 MB of body, said beforehand and not.

    Args:
        url: of a server that has done nothing else: what it held for other requests would hide what these cost.
        process: its process.
    """
    uri = "data:image/png;base64," + base64.b64encode(_bomb(9000)).decode()
    edit = {"prompt": "make it blue", "image": uri}
    with httpx.Client(base_url=url, timeout=_SECONDS, trust_env=False) as client:
        for name, request in (
            ("81-megapixel PNG", {"url": "/v1/images/edits", "json": edit}),
            ("300 MB", {"url": "/v1/images/generations", "content": bytes(300_000_000)}),
            ("300 MB in chunks", {"url": "/v1/images/generations", "content": _chunks(300)}),
        ):
            before = max(_peak(client), process.memory_info().rss)
            try:
                status = str(client.post(**request).status_code)
            except httpx.TransportError as error:  # the server closed the door while we were still sending
                status = type(error).__name__
            peak = _peak(client)
            yield name, Attack(status, peak - before, peak)


def _chunks(megabytes: int) -> Iterator[bytes]:
    for _ in range(megabytes):
        yield bytes(1_000_000)


def _bomb(side: int) -> bytes:
    """A small PNG of side × side black pixels."""
    packed = zlib.compressobj(9)
    rows = b"".join(packed.compress(bytes(3 * side + 1)) for _ in range(side)) + packed.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _peak(client: httpx.Client) -> float:
    """The most that the server has held, in bytes, as it says itself."""
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("unipic2_peak_memory_bytes "))
