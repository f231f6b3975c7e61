"""The text encoders and the autoencoder as graphs: exactly what the pipeline reads of them, nothing else."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, T5EncoderModel


class ClipGraph(nn.Module):
    """input_ids [B, S] → hidden [B, S, H] (the last but one layer's) and pooled [B, P]."""

    def __init__(self, model: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """No attention mask: SD3 attends to padding."""
        output = self.model(input_ids, output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds


class T5Graph(nn.Module):
    """input_ids [B, S] → hidden [B, S, J], with T5's position bias computed beforehand for its fixed length S."""

    def __init__(self, model: T5EncoderModel, length: int) -> None:
        super().__init__()
        self.encoder = model.encoder
        attention = self.encoder.block[0].layer[0].SelfAttention
        with torch.no_grad():
            bias = attention.compute_bias(length, length, device=attention.q.weight.device)
        self.position_bias: Tensor
        self.register_buffer("position_bias", bias.detach().clone())  # [1, heads, S, S]

    def forward(self, input_ids: Tensor) -> Tensor:
        """T5's encoder without its mask; scores are not scaled (T5, arXiv 1910.10683)."""
        states = self.encoder.embed_tokens(input_ids)
        for block in self.encoder.block:
            states = states + self._attend(block.layer[0], states)
            states = block.layer[1](states)
        normed: Tensor = self.encoder.final_layer_norm(states)
        return normed

    def _attend(self, layer: Any, states: Tensor) -> Tensor:
        attention = layer.SelfAttention
        normed = layer.layer_norm(states)
        query, key, value = (
            self._heads(linear(normed), attention) for linear in (attention.q, attention.k, attention.v)
        )
        scores = query @ key.transpose(2, 3) + self.position_bias.to(query.dtype)
        mixed = torch.softmax(scores.float(), dim=-1).to(query.dtype) @ value  # [B, heads, S, key]
        out: Tensor = attention.o(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, states: Tensor, attention: Any) -> Tensor:
        shape = (states.shape[0], states.shape[1], attention.n_heads, attention.key_value_proj_dim)
        return states.view(shape).transpose(1, 2)


class VaeEncoderGraph(nn.Module):
    """image [B, 3, H, W] in −1…1 → mean and logvar [B, C, h, w] of the posterior."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The moments, the log-variance clamped as in diffusers' DiagonalGaussianDistribution."""
        moments = self.encoder(image)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)


class VaeDecoderGraph(nn.Module):
    """latents [B, C, h, w], shift and scale already undone → image [B, 3, H, W]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv

    def forward(self, latents: Tensor) -> Tensor:
        """The decoded picture, not clamped."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        image: Tensor = self.decoder(latents)
        return image
