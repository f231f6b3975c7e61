"""The plain PyTorch pipeline of MetaQuery checkpoints: generate, edit and describe, the peer of the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..pipeline import DenoisingPipeline
from ..qwen.understanding import answer
from ..shapes.render import Picture
from .checkpoint import MetaqueryCheckpoint
from .conditioner import MetaQueryConditioner
from .querying import Prompts, Querying, Rope


class QueryingConditioner(nn.Module):
    """Prompts → context [B, Q, J] and pooled [B, P]: the conditioner, whose queries a frozen language model answers.

    The language model is held beside the module, not in it: it is neither trained nor saved with it.
    """

    def __init__(self, conditioner: MetaQueryConditioner, querying: Querying) -> None:
        super().__init__()
        self.conditioner = conditioner
        self._held = (querying,)

    @property
    def querying(self) -> Querying:
        """The language model with its tokenizer and image processor."""
        return self._held[0]

    def forward(self, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """One batch."""
        context, pooled = self.conditioner(self.querying(prompts, self.conditioner.meta_queries))
        return context, pooled


class MetaqueryPipeline(DenoisingPipeline):
    """A MetaQuery checkpoint's parts, and the three tasks on them.

    Args:
        transformer: the denoiser.
        vae: the autoencoder.
        scheduler: flow matching's.
        conditioner: reads the words and the picture.
    """

    def __init__(self, transformer: Any, vae: Any, scheduler: Any, conditioner: QueryingConditioner) -> None:
        super().__init__(transformer, vae, scheduler)
        self.conditioner = conditioner

    @classmethod
    def load(
        cls,
        checkpoint: MetaqueryCheckpoint,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        rope: Rope = "sequential",
    ) -> MetaqueryPipeline:
        """All parts of a checkpoint.

        Args:
            checkpoint: a whole one of the variant `metaquery`.
            device: where to run.
            dtype: of every part.
            rope: positions of an edited picture's tokens in the language model.

        Raises:
            CheckpointError: a part is missing or damaged.
        """
        querying = Querying(checkpoint.load_qwen(dtype).to(device), checkpoint.chat(), checkpoint.sight(), rope)
        return cls(
            checkpoint.load_transformer(dtype).to(device),
            checkpoint.load_vae(dtype).to(device),
            checkpoint.load_scheduler(),
            QueryingConditioner(checkpoint.load_meta_conditioner(dtype).to(device), querying),
        )

    def condition(self, rows: Sequence[str], pictures: Sequence[Picture] | None) -> tuple[Tensor, Tensor]:
        """Words and pictures go through the language model, the queries behind them."""
        context, pooled = self.conditioner(self.conditioner.querying.prompts(rows, pictures))
        return context, pooled

    def describe(self, picture: Picture, question: str, limit: int = 40) -> str:
        """A greedy answer of at most `limit` tokens, as transformers' `generate` with the published chat template.

        Args:
            picture: [H, W, 3] uint8; seen in the image processor's own size, at M-RoPE positions.
            question: what is asked.
            limit: of new tokens.
        """
        querying = self.conditioner.querying
        return answer(querying.qwen, querying.chat, querying.sight, [(question, picture)], limit=limit)[0]
