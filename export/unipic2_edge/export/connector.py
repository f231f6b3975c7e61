"""The end of MetaQuery's connector: what the denoiser hears."""

from __future__ import annotations

from torch import Tensor, nn


class ConnectorHead(nn.Module):
    """states [B, Q, D] → context [B, Q, J] and pooled [B, P], of the mean over the queries."""

    def __init__(self, to_pooled: nn.Linear, to_context: nn.Linear) -> None:
        super().__init__()
        self.projector_2, self.projector_3 = to_pooled, to_context

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Two products."""
        return self.projector_3(states), self.projector_2(states.mean(1))
