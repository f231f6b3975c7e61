"""Text conditioning as SD3 does it: two CLIPs and T5 make the context and the pooled embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModelWithProjection, T5EncoderModel

TokenIds = tuple[Tensor, Tensor, Tensor]  # of text_encoder, text_encoder_2, text_encoder_3; each [B, length]


class TextConditioner(nn.Module):
    """Token ids → context [B, L1 + L3, J] and pooled [B, P] (SD3, arXiv 2403.03206, §4 and appendix B)."""

    def __init__(
        self,
        text_encoder: CLIPTextModelWithProjection,
        text_encoder_2: CLIPTextModelWithProjection,
        text_encoder_3: T5EncoderModel,
    ) -> None:
        super().__init__()
        self.text_encoder, self.text_encoder_2, self.text_encoder_3 = (
            text_encoder,
            text_encoder_2,
            text_encoder_3,
        )

    def forward(self, ids: TokenIds) -> tuple[Tensor, Tensor]:
        """No attention mask anywhere: SD3 attends to padding, in the encoders and in the denoiser."""
        first = self.text_encoder(ids[0], output_hidden_states=True)
        second = self.text_encoder_2(ids[1], output_hidden_states=True)
        long = self.text_encoder_3(ids[2]).last_hidden_state  # [B, L3, J]
        clip = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)  # [B, L1, H1 + H2]
        clip = functional.pad(clip, (0, long.shape[-1] - clip.shape[-1]))
        pooled = torch.cat([first.text_embeds, second.text_embeds], dim=-1)
        return torch.cat([clip, long], dim=1), pooled
