"""A model without its weights: modules on the meta device, filled from the files on disk one at a time.

So a conversion holds as much of a model as it works on, and never the whole of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .errors import CheckpointError

_Module = TypeVar("_Module", bound=nn.Module)


@contextmanager
def without_memory(dtype: torch.dtype) -> Iterator[None]:
    """Modules made in this block stand on the meta device, in `dtype` from the start."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(default)


class Skeleton:
    """A model part's modules without memory, and their parameters on disk.

    Args:
        model: on the meta device, in the dtypes in which it is to be filled; tied weights are tied.
        files: the part's safetensors files; a name in several is taken from the first.
        part: what to call it in errors.
        change: given each parameter's name and stored tensor when it is read; returns the tensor to take instead.
        stored_as: another name under which a file may hold a parameter.

    Raises:
        CheckpointError: a file is damaged, a parameter is missing or has another shape.
    """

    def __init__(
        self,
        model: Any,
        files: tuple[Path, ...],
        part: str,
        change: Callable[[str, Tensor], Tensor] | None = None,
        stored_as: Callable[[str], str] = str,
    ) -> None:
        self.model = model.eval()
        self._part = part
        self._change = change
        self._places: dict[int, tuple[Path, str, torch.dtype]] = {}
        shapes = self._shapes(files)
        missing = []
        for parameter, names in _named(model):
            name = next((name for name in (*names, *map(stored_as, names)) if name in shapes), None)
            if name is None:
                missing.append(names[0])
                continue
            path, shape = shapes[name]
            if shape != list(parameter.shape):
                raise CheckpointError(
                    f"{part} cannot be loaded: {name} has the shape {shape}, its config says {list(parameter.shape)}",
                    "fetch or make this part again",
                )
            self._places[id(parameter)] = (path, name, parameter.dtype)
        if missing:
            raise CheckpointError(
                f"{part} lacks {len(missing)} of its tensors, {min(missing)} the first",
                "fetch or make this part again",
            )

    def fill(self, module: _Module, without: tuple[nn.Module, ...] = ()) -> _Module:
        """A copy of a module, itself or put together from modules of the model, with its parameters as stored.

        Each is read in the dtype that the model had from the start, and then takes the one it has by now.

        Args:
            module: holds parameters of `model` and no others.
            without: modules in it whose parameters stay on the meta device.

        Raises:
            CheckpointError: a file can no longer be read.
        """
        left = {id(parameter) for other in without for parameter in other.parameters()}
        wanted = [parameter for parameter in module.parameters() if id(parameter) not in left]
        with ExitStack() as stack:
            opened: dict[Path, Any] = {}
            memo: dict[int, Any] = {}
            for parameter in wanted:
                path, name, dtype = self._places[id(parameter)]
                if path not in opened:
                    opened[path] = stack.enter_context(self._open(path))
                stored: Tensor = opened[path].get_tensor(name)
                if self._change is not None:
                    stored = self._change(name, stored)
                memo[id(parameter)] = nn.Parameter(stored.to(dtype).to(parameter.dtype), requires_grad=False)
        return copy.deepcopy(module, memo)

    def _shapes(self, files: tuple[Path, ...]) -> dict[str, tuple[Path, list[int]]]:
        """Where every stored tensor stands, and its shape; the tensors themselves are not read."""
        shapes: dict[str, tuple[Path, list[int]]] = {}
        for path in files:
            with self._open(path) as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    shapes.setdefault(name, (path, tensors.get_slice(name).get_shape()))
        return shapes

    @contextmanager
    def _open(self, path: Path) -> Iterator[Any]:
        """An open file; it stays mapped only as long as a tensor read from it lives."""
        try:
            opened = safe_open(path, framework="pt")
        except Exception as error:  # SafetensorError, OSError
            reason = str(error).strip() or type(error).__name__
            raise CheckpointError(
                f"{self._part} cannot be loaded: {path.name}: {reason}", "fetch or make this part again"
            ) from error
        with opened as tensors:
            yield tensors


def _named(model: nn.Module) -> list[tuple[nn.Parameter, list[str]]]:
    """Every parameter once, with all its names."""
    found: dict[int, tuple[nn.Parameter, list[str]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), (parameter, []))[1].append(name)
    return list(found.values())
