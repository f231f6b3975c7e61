"""Engines: what `build` left in a bundle, and the record of what each was compiled from.

    engines/store/<graph>-<key>.plan|.onnx|.zip    a compiled graph; `key` is the hash of everything it depends on
    engines/store/<graph>-<key>.json          its record, written after it
    engines/<target>.json                     which engine serves each graph on a target

Targets that can share an engine name the same key. An engine is never trusted by its own word: its bytes must
equal the record's hash, and the record must name the very graph and weights that stand in the manifest.
engines/ writes these files, the runtime reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from .bundle import Bundle, Record
from .errors import BundleError
from .files import write_bytes
from .verification import plain_file, read_plain_file, verified_bytes

ENGINES = "engines"
STORE = f"{ENGINES}/store"

Scalar = str | int | float | bool | None


class CompiledFrom(Record, frozen=True):
    """The SHA-256 of the graph and of the weights an engine was compiled from."""

    graph: str
    weights: str


class Shapes(Record, frozen=True):
    """One input's optimisation profile: the smallest, the most likely and the largest shape."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


class EngineSpec(Record, frozen=True):
    """Everything an engine depends on; two equal specs give the same engine.

    `backend` is the Python module: onnxruntime, openvino, tensorrt or tensorrt_rtx. `capabilities` are the compute
    capabilities the engine holds code for ("8.6", …), none for processors. `platform` is the operating system and
    processor it runs on ("linux-x86_64", "windows-x86_64", "linux-aarch64"), or "any".
    """

    graph: str
    compiled_from: CompiledFrom
    precision: str
    backend: str
    backend_version: str
    capabilities: tuple[str, ...]
    platform: str
    profile: dict[str, Shapes]
    settings: dict[str, Scalar]

    @property
    def key(self) -> str:
        """The hash of the spec's canonical JSON, 24 hexadecimal digits."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:24]

    @property
    def name(self) -> str:
        """The engine's file name in the store, without its suffix."""
        return f"{self.graph}-{self.key}"


class Engine(Record, frozen=True):
    """A compiled graph in the store: `<name>.json`.

    `weights_bytes` and `activation_bytes` are what it needs on the device, as the builder reports them (none where
    it does not say); `build_seconds` and `build_peak_bytes` what compiling it took; `verified_ns` the file's
    modification time when its bytes were last known to be right.
    """

    spec: EngineSpec
    file: str
    sha256: str
    bytes: int
    weights_bytes: int | None = None
    activation_bytes: int | None = None
    build_seconds: float | None = None
    build_peak_bytes: int | None = None
    verified_ns: int = 0


class Contest(Record, frozen=True):
    """How long a graph took through each engine that could serve a target, on the machine that built them.

    `processor` is its name, `threads` the threads inside an operator (none: the backend's own choice), `seconds` the
    median of a run by the engine's name.
    """

    processor: str
    threads: int | None
    seconds: dict[str, float]


class TargetEngines(Record, frozen=True):
    """`engines/<target>.json`: the engine's name for each graph, and what decided where there were several."""

    target: str
    engines: dict[str, str]
    contests: dict[str, Contest] = msgspec.field(default_factory=dict)


_Read = TypeVar("_Read", bound=Record)


def engine_origin(bundle: Bundle, graph: str) -> CompiledFrom:
    """What an engine of this graph must have been compiled from."""
    signature = bundle.graph(graph)
    files, components = bundle.manifest.files, bundle.manifest.components
    return CompiledFrom(
        graph=files[signature.file].sha256, weights=files[components[signature.component].weights].sha256
    )


def built_targets(bundle: Bundle) -> list[str]:
    """The targets this bundle was built for, by name."""
    return sorted(path.stem for path in (bundle.folder / ENGINES).glob("[!.]*.json"))


def stored_engines(bundle: Bundle) -> Iterator[Engine]:
    """Every engine in the store, whatever it was compiled from; damaged records are passed over."""
    for path in sorted((bundle.folder / STORE).glob("[!.]*.json")):
        try:
            yield read_engine(bundle, path.stem)
        except BundleError:
            continue


def read_target(bundle: Bundle, target: str) -> TargetEngines | None:
    """Which engines serve a target, or none when the bundle was not built for it.

    Raises:
        BundleError: the record is damaged.
    """
    relative = f"{ENGINES}/{target}.json"
    return _read(bundle, relative, TargetEngines) if (bundle.folder / relative).exists() else None


def read_engine(bundle: Bundle, name: str) -> Engine:
    """An engine's record.

    Raises:
        BundleError: missing or damaged.
    """
    engine = _read(bundle, f"{STORE}/{name}.json", Engine)
    if engine.spec.name != name or Path(engine.file).stem != name:
        raise BundleError(f"the record of the engine {name} is damaged: it describes another one", AGAIN)
    return engine


def engine_path(bundle: Bundle, engine: Engine) -> Path:
    """Where an engine's bytes stand: a plain file of the recorded size, not hashed.

    Raises:
        BundleError: missing, a link, or of another size.
    """
    try:
        path = plain_file(bundle.folder, f"{STORE}/{engine.file}")
    except BundleError as error:
        raise BundleError(error.problem, AGAIN) from error
    if path.stat().st_size != engine.bytes:
        raise BundleError(f"{path} is damaged: {path.stat().st_size} bytes, recorded {engine.bytes}", AGAIN)
    return path


def read_engine_bytes(bundle: Bundle, engine: Engine) -> bytes:
    """The verified bytes of an engine, after its origin was checked.

    Raises:
        BundleError: missing, damaged, or compiled from another graph or other weights.
    """
    check_origin(bundle, engine)
    try:
        return verified_bytes(bundle.folder, f"{STORE}/{engine.file}", engine.sha256, engine.bytes)
    except BundleError as error:
        raise BundleError(error.problem, AGAIN) from error


def check_origin(bundle: Bundle, engine: Engine) -> None:
    """Refuse an engine of another graph or of other weights.

    Raises:
        BundleError: it was compiled from something else than what stands in the manifest.
    """
    if engine.spec.compiled_from != engine_origin(bundle, engine.spec.graph):
        raise BundleError(f"the engine of {engine.spec.graph} was built from another graph or other weights", AGAIN)


def write_engine(bundle: Bundle, engine: Engine) -> None:
    """Write an engine's record, atomically; its bytes stand already.

    Raises:
        OutputError, WorkError: it cannot be written.
    """
    _write(bundle.folder / STORE / f"{engine.spec.name}.json", engine)


def write_target(bundle: Bundle, target: TargetEngines) -> None:
    """Write a target's record, atomically; its engines stand already.

    Raises:
        OutputError, WorkError: it cannot be written.
    """
    _write(bundle.folder / ENGINES / f"{target.target}.json", target)


AGAIN = "build it again: unipic2-edge build BUNDLE --target auto"


def _read(bundle: Bundle, relative: str, kind: type[_Read]) -> _Read:
    try:
        return msgspec.json.decode(read_plain_file(bundle.folder, relative), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"{bundle.folder / relative} is damaged: {error}", AGAIN) from error


def _write(path: Path, record: Record) -> None:
    write_bytes(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
