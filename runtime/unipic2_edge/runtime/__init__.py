"""Serves a bundle: `Pipeline.load(bundle)`, then `.generate` and `.edit`. No torch, transformers, diffusers or onnx.

Names are imported when they are first used, so that the command line answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bundle import Bundle as Bundle
    from .pipeline import Pipeline as Pipeline
    from .result import Result as Result

_HOMES = {"Bundle": "bundle", "Pipeline": "pipeline", "Result": "result"}
__all__ = ["Bundle", "Pipeline", "Result"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
