"""Engines: what `build` left under `engines/<target>/`, and the record of what each was compiled from.

An engine is never trusted by its own word: its bytes must equal the record's hash, and the record must name
the very graph and weights that stand in the manifest. engines/ writes the record, the runtime reads it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from .bundle import Bundle, Record
from .errors import BundleError
from .files import write_bytes
from .verification import read_plain_file, verified_bytes

ENGINES = "engines"
RECORD = "engine.json"


class CompiledFrom(Record, frozen=True):
    """The SHA-256 of the graph and of the weights an engine was compiled from."""

    graph: str
    weights: str


class EngineGraph(Record, frozen=True):
    """One compiled graph: its bare file name in the target's folder, its hash, its origin.

    Its external data, if it has any, is the bundle's own weights.
    """

    file: str
    sha256: str
    bytes: int
    compiled_from: CompiledFrom


class EngineRecord(Record, frozen=True):
    """`engine.json`: one target's compiled graphs, the backend and settings that made them."""

    target: str
    backend: str
    backend_version: str
    settings: dict[str, str | int | float | bool | None]
    graphs: dict[str, EngineGraph]


def engine_folder(bundle: Bundle, target: str) -> Path:
    """Where a target's engines stand."""
    return bundle.folder / ENGINES / target


def built_targets(bundle: Bundle) -> list[str]:
    """The targets this bundle was built for, by name."""
    return sorted(path.parent.name for path in (bundle.folder / ENGINES).glob(f"*/{RECORD}"))


def read_engine_record(bundle: Bundle, target: str) -> EngineRecord | None:
    """The record of a target's engines, or none when the bundle was not built for it.

    Raises:
        BundleError: the record is damaged.
    """
    relative = f"{ENGINES}/{target}/{RECORD}"
    if not (bundle.folder / relative).exists():
        return None
    try:
        return msgspec.json.decode(read_plain_file(bundle.folder, relative), type=EngineRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"{bundle.folder / relative} is damaged: {error}", _again(target)) from error


def write_engine_record(folder: Path, record: EngineRecord) -> None:
    """Write `engine.json` into a target's folder, atomically; build calls this last.

    Raises:
        OutputError: the folder cannot be written to.
        WorkError: the disk is full.
    """
    write_bytes(folder / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def read_engine(bundle: Bundle, record: EngineRecord, graph: str) -> bytes:
    """The verified bytes of a compiled graph, after its origin was checked.

    Raises:
        BundleError: missing, damaged, or compiled from another graph or other weights.
    """
    compiled = record.graphs[graph]
    _check_origin(bundle, record.target, graph, compiled.compiled_from)
    folder = engine_folder(bundle, record.target)
    try:
        return verified_bytes(folder, compiled.file, compiled.sha256, compiled.bytes)
    except BundleError as error:
        raise BundleError(error.problem, _again(record.target)) from error


def _check_origin(bundle: Bundle, target: str, graph: str, origin: CompiledFrom) -> None:
    signature = bundle.graph(graph)
    files, components = bundle.manifest.files, bundle.manifest.components
    standing = CompiledFrom(
        graph=files[signature.file].sha256, weights=files[components[signature.component].weights].sha256
    )
    if origin != standing:
        raise BundleError(
            f"the {target} engine of {graph} was built from another graph or other weights", _again(target)
        )


def _again(target: str) -> str:
    return f"build it again: unipic2-edge build BUNDLE --target {target}"
