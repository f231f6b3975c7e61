"""The UniPic2-Kontext denoiser: diffusers' SD3 transformer with the reference image's tokens placed first.

State-dict keys and config are those of `SD3Transformer2DModel`, so SD3.5-Medium and the published UniPic2
checkpoints load by key and the reference path adds no weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch.nn.attention import SDPBackend, sdpa_kernel


class KontextTransformer(SD3Transformer2DModel):  # type: ignore[misc]
    """SD3's MMDiT that also sees a reference latent (UniPic 2.0, arXiv 2509.04548).

    The reference goes through the same patch embedding and the same positions as the noisy latent, its
    tokens stand before the noisy ones, and only the noisy ones' velocity is returned.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        pooled_projections: torch.Tensor,
        timestep: torch.Tensor,
        ref_hidden_states: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict the velocity ε − x0 of flow matching.

        Args:
            hidden_states: noisy latents [B, C, H, W]; H and W multiples of the patch size.
            encoder_hidden_states: text context [B, L, joint_attention_dim].
            pooled_projections: pooled text [B, pooled_projection_dim].
            timestep: 1000·sigma, [B].
            ref_hidden_states: reference latents of the same shape as `hidden_states`, or none.
            return_dict: return diffusers' output object instead of a tuple.
        """
        height, width = hidden_states.shape[-2:]
        tokens = self.pos_embed(hidden_states)  # [B, N, D]
        noisy = tokens.shape[1]
        if ref_hidden_states is not None:
            tokens = torch.cat([self.pos_embed(ref_hidden_states), tokens], dim=1)  # [B, 2N, D]
        modulation = self.time_text_embed(timestep, pooled_projections)
        context = self.context_embedder(encoder_hidden_states)
        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                context, tokens = self._gradient_checkpointing_func(_as_now(block), tokens, context, modulation)
            else:
                context, tokens = block(hidden_states=tokens, encoder_hidden_states=context, temb=modulation)
        velocity = self.proj_out(self.norm_out(tokens[:, -noisy:], modulation))
        sample = self._unpatchify(velocity, height, width)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def compile_blocks(self) -> None:
        """Compile block by block: a few kinds of block and token counts, so a dozen or two small compilations."""
        torch._dynamo.config.recompile_limit = 128
        for block in self.transformer_blocks:
            block.compile()

    def _unpatchify(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """[B, N, p·p·C] in (p, q, c) order → [B, C, H, W]."""
        patch, channels = self.config.patch_size, self.out_channels
        grid = tokens.reshape(len(tokens), height // patch, width // patch, patch, patch, channels)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), channels, height, width)


def _as_now(block: Callable[..., Any]) -> Callable[..., Any]:
    """A block that takes the attention kernels allowed now, also when the backward pass runs it again.

    Other kernels keep other tensors, and checkpointing would refuse them.
    """
    cuda: Any = torch.backends.cuda
    allowed = {
        SDPBackend.FLASH_ATTENTION: cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: cuda.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: cuda.math_sdp_enabled(),
        SDPBackend.CUDNN_ATTENTION: cuda.cudnn_sdp_enabled(),
    }
    backends = [backend for backend, enabled in allowed.items() if enabled]

    def run(*inputs: Any) -> Any:
        with sdpa_kernel(backends):
            return block(*inputs)

    return run
