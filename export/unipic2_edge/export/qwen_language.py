"""Qwen2.5-VL's decoder as a graph with its cache at the door: one graph prefills, encodes queries and decodes.

Rotary angles and the causal mask come from the host, so positions are the host's affair (sequential or M-RoPE), and
what is prefilled before can be of any length. The submodules are transformers', but for query, key and value, which are
one product here (`qkv_proj`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import merged_linears, rms_norm
from .encoders import WideLinear


class LanguageBlock(nn.Module):
    """One layer with a growing cache.

    states [B, S, H], rope_cos and rope_sin [B, S, d] float32, attention_bias [B, 1, S, P + S] float32, past_key and
    past_value [B, kv, P, d] → states, key and value [B, kv, P + S, d].
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = layer.input_layernorm, layer.post_attention_layernorm
        self.self_attn = LanguageAttention(layer.self_attn)
        self.mlp = LanguageMlp(layer.mlp)

    def forward(
        self, states: Tensor, rope_cos: Tensor, rope_sin: Tensor, attention_bias: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention over what was and what is, then the feed-forward layer."""
        query, new_key, new_value = self.self_attn.project(rms_norm(states, self.input_layernorm), rope_cos, rope_sin)
        key, value = torch.cat([key, new_key], dim=2), torch.cat([value, new_value], dim=2)
        states = states + self.self_attn.attend(query, key, value, attention_bias)
        made: Tensor = states + self.mlp(rms_norm(states, self.post_attention_layernorm))
        return made, key, value


class StaticLanguageBlock(LanguageBlock):
    """The same with a cache of fixed length T that is written in place (ONNX TensorScatter).

    attention_bias is [B, 1, S, T], key and value are [B, kv, T, d], write_index [B] int64 is where the new ones go.
    """

    def forward(  # type: ignore[override]
        self,
        states: Tensor,
        rope_cos: Tensor,
        rope_sin: Tensor,
        attention_bias: Tensor,
        write_index: Tensor,
        key: Tensor,
        value: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As the growing one; places that were not written yet are masked."""
        query, new_key, new_value = self.self_attn.project(rms_norm(states, self.input_layernorm), rope_cos, rope_sin)
        key, value = _scattered(key, new_key, write_index), _scattered(value, new_value, write_index)
        states = states + self.self_attn.attend(query, key, value, attention_bias)
        made: Tensor = states + self.mlp(rms_norm(states, self.post_attention_layernorm))
        return made, key, value


def _scattered(cache: Tensor, new: Tensor, write_index: Tensor) -> Tensor:
    made: Tensor = torch.onnx.ops.symbolic(
        "TensorScatter",
        (cache, new, write_index),
        attrs={"axis": 2, "mode": "linear"},
        dtype=cache.dtype,
        shape=cache.shape,
        version=24,
    )
    return made


class LanguageAttention(nn.Module):
    """Grouped-query attention: several query heads read one key head (arXiv 2305.13245)."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.width = attention.head_dim
        self.heads = attention.q_proj.out_features // self.width
        self.pairs = attention.k_proj.out_features // self.width  # heads of key and value
        self.qkv_proj = merged_linears(attention, "q_proj", "k_proj", "v_proj")
        self.o_proj = attention.o_proj

    def project(self, states: Tensor, rope_cos: Tensor, rope_sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """normed states [B, S, H] → query [B, heads, S, d], key and value [B, kv, S, d], the first two turned."""
        sizes = [self.heads * self.width, self.pairs * self.width, self.pairs * self.width]
        parts = self.qkv_proj(states).split(sizes, dim=-1)
        query, key, value = (part.unflatten(-1, (-1, self.width)).transpose(1, 2) for part in parts)
        cos, sin = rope_cos[:, None], rope_sin[:, None]  # [B, 1, S, d]
        return rotated(query, cos, sin), rotated(key, cos, sin), value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """query [B, heads, S, d], key and value [B, kv, T, d], bias [B, 1, S, T] → [B, S, H]."""
        batch, _, length, width = query.shape
        group = self.heads // self.pairs
        grouped = query.reshape(batch, self.pairs, group * length, width)  # keys are read in place, not repeated
        scores = (grouped @ key.transpose(2, 3)).float() * width**-0.5
        scores = scores.reshape(batch, self.pairs, group, length, -1) + bias[:, :, None]
        weights = torch.softmax(scores, dim=-1).to(value.dtype).reshape(batch, self.pairs, group * length, -1)
        mixed = (weights @ value).reshape(batch, self.heads, length, width)
        projected: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return projected


class LanguageMlp(nn.Module):
    """SwiGLU; in float16 the last product is made in float32's range, which its results need."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        if self.down_proj.weight.dtype == torch.float16 and not isinstance(self.down_proj, WideLinear):
            self.down_proj = WideLinear(self.down_proj)

    def forward(self, states: Tensor) -> Tensor:
        """states [B, S, H] → [B, S, H]."""
        made: Tensor = self.down_proj(functional.silu(self.gate_proj(states)) * self.up_proj(states))
        return made


class LanguageHead(nn.Module):
    """The states that are asked for, normed: states [B, S, H], select_index [K] → hidden [B, K, H]."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, states: Tensor, select_index: Tensor) -> Tensor:
        """Only these leave the graph: the queries', or the last word's."""
        return rms_norm(torch.index_select(states, 1, select_index), self.norm)


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, half-split, in float32: states [B, heads, S, d], cos and sin [B, 1, S, d] → states."""
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (states.float() * cos + turned.float() * sin).to(states.dtype)
