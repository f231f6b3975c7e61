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
    """input_ids [B, S] → hidden [B, S, J]: T5's encoder without its mask, for one fixed length S."""

    def __init__(self, model: T5EncoderModel, length: int) -> None:
        super().__init__()
        encoder = model.encoder
        self.embedding = T5Embedding(encoder.embed_tokens, encoder.block[0].layer[0].SelfAttention, length)
        self.block = nn.ModuleList(T5Block(block) for block in encoder.block)
        self.final_layer_norm = encoder.final_layer_norm

    def forward(self, input_ids: Tensor) -> Tensor:
        """One batch."""
        states, bias = self.embedding(input_ids)
        states = states.to(self.states_dtype)
        for block in self.block:
            states = block(states, bias)
        normed: Tensor = self.final_layer_norm(states)
        return normed

    @property
    def states_dtype(self) -> torch.dtype:
        """What the blocks add up in: their sums leave float16's range, so there it is float32."""
        dtype: torch.dtype = self.final_layer_norm.weight.dtype
        return torch.float32 if dtype == torch.float16 else dtype


class T5Embedding(nn.Module):
    """input_ids [B, S] → states [B, S, J] and T5's position bias [1, heads, S, S], computed beforehand.

    Args:
        embed_tokens: the token embedding.
        attention: the first block's self-attention, whose table of relative positions all blocks use.
        length: S.
    """

    def __init__(self, embed_tokens: nn.Embedding, attention: Any, length: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"embed_tokens": embed_tokens})  # under its name in the checkpoint
        self.width = embed_tokens.embedding_dim  # J
        self.relative_attention_bias = attention.relative_attention_bias
        device = self.relative_attention_bias.weight.device
        with torch.no_grad():
            bias = attention.compute_bias(length, length, device=device)
        self.position_bias: Tensor
        self.register_buffer("position_bias", bias.detach().clone())  # [1, heads, S, S]

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Look up; the bias does not depend on the ids."""
        return self.encoder["embed_tokens"](input_ids), self.position_bias


class T5Block(nn.Module):
    """states [B, S, J], position bias [1, heads, S, S] → states; scores are not scaled (T5, arXiv 1910.10683)."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        dense = block.layer[1].DenseReluDense
        if dense.wo.weight.dtype == torch.float16 and not isinstance(dense.wo, WideLinear):
            dense.wo = WideLinear(dense.wo)
        self.layer = nn.ModuleList([_T5Attention(block.layer[0]), block.layer[1]])

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """Self-attention, then the feed-forward layer, each added to what comes in."""
        attended = states + self.layer[0](states, bias)
        made: Tensor = self.layer[1](attended)
        return made


class WideLinear(nn.Linear):
    """A float16 product whose results leave float16's range, as T5's feed-forward ones do; returns float32.

    transformers keeps this layer in float32, which Turing cards cannot multiply in. Here the inputs are scaled down
    by a power of two and the results up again, in float32. Takes over the linear's weight.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight

    def forward(self, states: Tensor) -> Tensor:
        """A product in float16 whose results are float32's."""
        return super().forward(states * 2**-6).float() * 2**6


class _T5Attention(nn.Module):
    """A block's first layer without its table of relative positions, so that all blocks are of one structure."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention = layer.SelfAttention
        self.layer_norm = layer.layer_norm
        self.SelfAttention = nn.ModuleDict({name: getattr(attention, name) for name in ("q", "k", "v", "o")})
        self.heads, self.width = attention.n_heads, attention.key_value_proj_dim

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        normed = self.layer_norm(states)
        query, key, value = (self._heads(self.SelfAttention[name](normed)) for name in ("q", "k", "v"))
        scores = query @ key.transpose(2, 3) + bias.to(query.dtype)
        mixed = torch.softmax(scores.float(), dim=-1).to(query.dtype) @ value  # [B, heads, S, key]
        out: Tensor = self.SelfAttention["o"](mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(states.shape[0], states.shape[1], self.heads, self.width).transpose(1, 2)


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
