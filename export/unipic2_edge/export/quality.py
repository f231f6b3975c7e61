"""`quality.json`: how far a bundle is from its checkpoint, as last measured."""

from __future__ import annotations

import json

import msgspec

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import BundleError, RequestError
from unipic2_edge.runtime.files import write_bytes

from .quantization.gate import Judgement
from .verify import Drift

QUALITY = "quality.json"


def write_quality(bundle: Bundle, drifts: list[Drift]) -> None:
    """Record the drift of every comparison, with the source's hash it holds for.

    Raises:
        OutputError, WorkError: the file cannot be written.
    """
    stage = "pytorch fp32 against onnxruntime"
    _write(bundle, {"stage": stage, "drifts": [drift.to_dict() for drift in drifts]})


def write_judgement(bundle: Bundle, judged: Judgement) -> None:
    """Record what the gate found, stage by stage.

    Raises:
        OutputError, WorkError: the file cannot be written.
    """
    _write(bundle, {"gate": judged.to_dict()})


def read_gate(bundle: Bundle) -> dict[str, object] | None:
    """What the gate found when the bundle was made, as JSON; None when it was not judged.

    Raises:
        BundleError: the record is damaged.
    """
    gate = _read(bundle).get("gate")
    return gate if isinstance(gate, dict) else None


def _write(bundle: Bundle, fields: dict[str, object]) -> None:
    """Put fields beside those that were measured before for the same source."""
    known = _read(bundle)
    source = bundle.manifest.source.sha256
    kept = known if known.get("source") == source else {}
    content = kept | {"source": source} | fields
    write_bytes(bundle.folder / QUALITY, (json.dumps(content, indent=2) + "\n").encode())


def _read(bundle: Bundle) -> dict[str, object]:
    path = bundle.folder / QUALITY
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is damaged: {error}", "remove it, and measure again with `verify`") from error


class _Quality(msgspec.Struct):
    source: str
    drifts: list[Drift] | None = None


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
    if quality.drifts is None:
        raise RequestError(f"the drift of {bundle.folder} was never measured", mend)
    return quality.drifts
