"""Peers by name: who takes part in a comparison, from what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import RequestError

from .bundle_peer import BACKENDS
from .doors import Entrant

_HERE = __package__
#: Precisions of PyTorch's peers by what is put behind their names.
_DTYPES = {"": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Kind:
    """A way from a checkpoint to pictures: the module, its name for people, whether it is PyTorch's and compiled."""

    module: str
    title: str
    torch: bool = True
    compiled: bool = False


KINDS = {
    "eager": Kind("pytorch_peer", "PyTorch eager"),
    "compile": Kind("pytorch_peer", "PyTorch torch.compile", compiled=True),
    "diffusers": Kind("diffusers_peer", "diffusers eager"),
    "diffusers-compile": Kind("diffusers_peer", "diffusers torch.compile", compiled=True),
    "sdcpp": Kind("sdcpp_peer", "stable-diffusion.cpp", torch=False),
    "optimum": Kind("optimum_peer", "optimum, ONNX Runtime", torch=False),
}
#: PyTorch is always compared with both ways.
DEFAULT = "eager,compile"


@dataclass(frozen=True)
class Setting:
    """What all entrants of a run have in common.

    Attributes:
        tasks: that will be asked for.
        threads: of the processor.
        device: of PyTorch's peers ("cpu", "cuda") and of bundles ("auto", "cpu", "gpu", "cuda").
        interpreters: by peer's name, for those that run in another one.
    """

    tasks: tuple[str, ...]
    threads: int | None
    device: str
    interpreters: Mapping[str, str]


def peer_names(text: str) -> list[str]:
    """The peers of "eager,compile-bf16,sdcpp".

    Raises:
        RequestError: there is no such peer.
    """
    names = list(dict.fromkeys(name for name in text.split(",") if name))
    for name in names:
        _kind(name)
    return names


def checkpoint_entrant(name: str, checkpoint: Path, setting: Setting) -> Entrant:
    """A peer that works from a checkpoint.

    Raises:
        RequestError: there is no such peer.
    """
    kind, dtype = _kind(name)
    settings = {
        "checkpoint": str(checkpoint.resolve()),
        "dtype": dtype,
        "compiled": kind.compiled,
        "device": "cuda" if setting.device in ("cuda", "gpu") else "cpu",
        "threads": setting.threads,
        "tasks": list(setting.tasks),
    }
    precision = f" {name.rpartition('-')[2]}" if dtype != "float32" else " fp32" if kind.torch else ""
    return Entrant(
        name=f"{kind.title}{precision}",
        module=f"{_HERE}.{kind.module}",
        settings=settings,
        python=setting.interpreters.get(name),
        details={"peer": name},
        threads=setting.threads,
    )


def bundle_entrants(bundles: Sequence[Path], backends: Sequence[str], setting: Setting) -> list[Entrant]:
    """Every bundle through every backend.

    Raises:
        BundleError: a folder is no bundle.
        RequestError: there is no such backend, or two entrants would have one name.
    """
    unknown = next((name for name in backends if name not in BACKENDS), None)
    if unknown is not None:
        raise RequestError(f"there is no backend {unknown!r}", f"use some of {', '.join(BACKENDS)}")
    made = [_bundle_entrant(folder, backend, setting) for folder in bundles for backend in backends]
    names = [entrant.name for entrant in made]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"two bundles would stand as {twice}", "give each bundle once, in folders of other names")
    return made


def _bundle_entrant(folder: Path, backend: str, setting: Setting) -> Entrant:
    manifest = Bundle(folder).manifest
    settings = {
        "bundle": str(folder.resolve()),
        "backend": backend,
        "device": setting.device,
        "threads": setting.threads,
    }
    shown = {"auto": "as served", "onnxruntime": "ONNX Runtime", "cuda": "ONNX Runtime CUDA", "tensorrt": "TensorRT"}
    via = shown.get(backend, backend.replace("openvino", "OpenVINO").replace("-bf16", ", bf16"))
    own = folder.resolve().name
    label = own if own == manifest.recipe else f"{own} ({manifest.recipe})"
    return Entrant(
        name=f"{label}, {via}",
        module=f"{_HERE}.bundle_peer",
        settings=settings,
        details={"bundle": manifest.name, "recipe": manifest.recipe, "source": manifest.source.sha256},
        threads=setting.threads,
    )


def _kind(name: str) -> tuple[Kind, str]:
    """A peer's kind and dtype."""
    base, _, suffix = name.rpartition("-")
    if name in KINDS:
        return KINDS[name], "float32"
    if suffix in _DTYPES and base in KINDS and KINDS[base].torch:
        return KINDS[base], _DTYPES[suffix]
    raise RequestError(
        f"there is no peer {name!r}", f"use some of {', '.join(KINDS)}; PyTorch's also with -bf16 or -fp16 behind"
    )


def interpreters_of(texts: Sequence[str]) -> dict[str, str]:
    """Interpreters by peer, of texts like "optimum=/path/to/venv/bin/python".

    Raises:
        RequestError: one is not of that form, names no peer that runs elsewhere, or there is no such file.
    """
    found = {}
    for text in texts:
        name, _, path = text.partition("=")
        if name not in KINDS or KINDS[name].torch or not path:
            able = [kind for kind in KINDS if not KINDS[kind].torch]
            raise RequestError(f"{text!r} names no interpreter of a peer", f"give NAME=PATH for {' or '.join(able)}")
        if not Path(path).is_file():
            raise RequestError(f"there is no interpreter {path}", "give the path of a python executable")
        found[name] = str(Path(path).absolute())  # a virtual environment's link is not followed
    return found
