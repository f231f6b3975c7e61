"""`quality.json`: how far a bundle is from its checkpoint, as last measured."""

from __future__ import annotations

import json

import msgspec

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import BundleError, RequestError
from unipic2_edge.runtime.files import write_bytes

from .verify import Drift

QUALITY = "quality.json"


def write_quality(bundle: Bundle, drifts: list[Drift]) -> None:
    """Record the drift of every comparison, with the source's hash it holds for.

    Raises:
        OutputError, WorkError: the file cannot be written.
    """
    content = {
        "source": bundle.manifest.source.sha256,
        "stage": "pytorch fp32 against onnxruntime",
        "drifts": [drift.to_dict() for drift in drifts],
    }
    write_bytes(bundle.folder / QUALITY, (json.dumps(content, indent=2) + "\n").encode())


class _Quality(msgspec.Struct):
    source: str
    stage: str
    drifts: list[Drift]


def read_quality(bundle: Bundle) -> list[Drift]:
    """The drift as it was last measured.

    Raises:
        RequestError: it was never measured, or for another checkpoint.
        BundleError: the record is damaged.
    """
    path = bundle.folder / QUALITY
    mend = f"measure it: unipic2-edge verify {bundle.folder} --checkpoint DIR"
    if not path.is_file():
        raise RequestError(f"the drift of {bundle.folder} was never measured", mend)
    try:
        quality = msgspec.json.decode(path.read_bytes(), type=_Quality)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is damaged: {error}", mend) from error
    if quality.source != bundle.manifest.source.sha256:
        raise RequestError(f"{path} was measured for another checkpoint", mend)
    return quality.drifts
