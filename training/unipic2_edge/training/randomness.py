"""Random weights that keep activations finite at full depth, the same for a seed; every tensor is different."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def randomise(model: Any, seed: int) -> None:
    """Fill every parameter of a model, seeded, in place; position ids that `to_empty` left undefined are counted."""
    generator = torch.Generator().manual_seed(seed)
    key_width = getattr(model.config, "d_kv", 1)
    for name, parameter in model.named_parameters():
        fill(name, parameter, generator, key_width)
    for name, buffer in model.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))


@torch.no_grad()
def fill(name: str, parameter: Tensor, generator: torch.Generator, key_width: int = 1) -> None:
    """Fill one: matrices N(0, 1/fan-in), embeddings N(0, 1), norms' gains near one, biases small.

    T5 does not scale its scores, so its queries are made smaller by the root of `key_width`.
    """
    if parameter.ndim > 1:
        embedding = "embed" in name and name.endswith(("embedding.weight", "shared.weight", "embed_tokens.weight"))
        spread = 1.0 if embedding else 1 / math.sqrt(parameter[0].numel())
        if name.endswith("SelfAttention.q.weight"):
            spread /= math.sqrt(key_width)
        parameter.normal_(0, spread, generator=generator)
    elif name.endswith("weight"):
        parameter.normal_(1, 0.02, generator=generator)
    else:
        parameter.normal_(0, 0.02, generator=generator)
