"""What comparisons of a graph with PyTorch share: the graph opened on a CPU, arrays in the dtypes that it takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.opening import open_session
from unipic2_edge.runtime.session import Session

from .twin import Float32Twin, needs_twin

#: Output, case, made by the bundle, expected.
Comparison = tuple[str, str, NDArray[np.float32], Tensor]


def open_graph(bundle: Bundle, graph: str) -> Session:
    """The graph as it is served on a CPU; a bfloat16 one by its twin."""
    return Float32Twin(bundle, graph) if needs_twin(bundle, graph) else open_session(bundle, graph)


def arrays_of(session: Session, **tensors: Tensor) -> dict[str, NDArray[np.generic]]:
    """Tensors as a graph's inputs."""
    return cast(session, {name: tensor.numpy() for name, tensor in tensors.items()})


def cast(session: Session, arrays: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """Arrays in the dtypes that the graph takes."""
    return {
        spec.name: np.ascontiguousarray(arrays[spec.name]).astype(spec.dtype, copy=False)
        for spec in session.graph.inputs
    }
