"""UniPic2-Metaquery's conditioner: learned queries for the language model, and the way from its states to the denoiser.

Names, shapes and config are those of the published `conditioner/`. `meta_queries` [Q, H] stand behind the prompt as
embeddings; the language model's last states at their places go through the connector, a pre-norm transformer encoder of
SigLIP's layers without a final norm, to context [B, Q, J] and, as the mean over the queries, to pooled [B, P].
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ConnectorConfig:
    """The connector's size; the defaults are the published one's."""

    hidden_size: int = 1536
    intermediate_size: int = 8960
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    layer_norm_eps: float = 1e-6

    def to_dict(self) -> dict[str, Any]:
        """As it stands in `conditioner/config.json`."""
        return asdict(self)


class ConnectorAttention(nn.Module):
    """Self-attention without a mask: states [B, Q, D] → [B, Q, D]."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, states: Tensor) -> Tensor:
        """softmax(q·kᵀ/√d)·v, projected."""
        query, key, value = (
            projection(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # each [B, heads, Q, d]
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return projected


class ConnectorMlp(nn.Module):
    """states [B, Q, D] → [B, Q, D] through the tanh form of GELU."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """Two linears."""
        made: Tensor = self.fc2(functional.gelu(self.fc1(states), approximate="tanh"))
        return made


class ConnectorLayer(nn.Module):
    """One pre-norm layer: states [B, Q, D] → [B, Q, D] (SigLIP's encoder layer)."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = ConnectorAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = ConnectorMlp(config)

    def forward(self, states: Tensor) -> Tensor:
        """Attention, then the feed-forward layer, each added to what comes in."""
        states = states + self.self_attn(self.layer_norm1(states))
        made: Tensor = states + self.mlp(self.layer_norm2(states))
        return made


class Connector(nn.Module):
    """The layers one after another."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConnectorLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, states: Tensor) -> Tensor:
        """states [B, Q, D] → [B, Q, D]."""
        for layer in self.layers:
            states = layer(states)
        return states


class MetaQueryConditioner(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """States of the language model at the queries [B, Q, H] → context [B, Q, J] and pooled [B, P].

    Args:
        connector_config: the connector's size; fields that are not ours, such as the attention's implementation, are
            kept in the config and change nothing.
        num_queries: Q.
        llm_hidden_size: H.
        pooled_projection_dim: P.
        joint_attention_dim: J.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        connector_config: dict[str, Any] | None = None,
        num_queries: int = 256,
        llm_hidden_size: int = 3584,
        pooled_projection_dim: int = 2048,
        joint_attention_dim: int = 4096,
    ) -> None:
        super().__init__()
        known = {name: value for name, value in (connector_config or {}).items() if name in _FIELDS}
        config = ConnectorConfig(**known)
        self.meta_queries = nn.Parameter(torch.empty(num_queries, llm_hidden_size))
        self.projector_1 = nn.Linear(llm_hidden_size, config.hidden_size)
        self.connector = Connector(config)
        self.projector_2 = nn.Linear(config.hidden_size, pooled_projection_dim)
        self.projector_3 = nn.Linear(config.hidden_size, joint_attention_dim)
        self.initialise()

    def initialise(self) -> None:
        """Queries ~ N(0, 1/H); the projectors to the denoiser start at zero, so that at first it hears nothing."""
        with torch.no_grad():
            self.meta_queries.normal_(std=self.meta_queries.shape[1] ** -0.5)
            for projector in (self.projector_2, self.projector_3):
                projector.weight.zero_()
                projector.bias.zero_()

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """One batch."""
        connected = self.connector(self.projector_1(states))
        return self.projector_3(connected), self.projector_2(connected.mean(1))


_FIELDS = tuple(ConnectorConfig.__dataclass_fields__)
