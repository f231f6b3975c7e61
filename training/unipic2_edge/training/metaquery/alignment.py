"""What the denoiser's own text encoders say, as a target for the queries and the connector.

A denoiser that was trained with CLIP and T5 understands nothing else: gradients through it say little to a connector
that begins anywhere, and cost its whole forward and backward. Where its text encoders are at hand, the connector first
learns to say what they would (a regression, token by token), which needs no denoiser at all; flow matching refines it
afterwards. This is ours: neither MetaQuery (arXiv 2504.06256) nor UniPic 2.0 (arXiv 2509.04548) names such a teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..errors import RecipeError
from ..layout import MODELS, TOKENIZERS
from ..text.corpus import sentences

_AVERAGED = 512  # texts


class TextTeacher:
    """The text encoders of a Kontext checkpoint, and what they say on average.

    Args:
        checkpoint: its folder; other parts are not needed.

    Raises:
        CheckpointError: a text encoder or a tokenizer is damaged.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tokenize, self._conditioner = checkpoint.tokenizers(), checkpoint.load_conditioner()
        context, pooled = self(list(islice(sentences(_AVERAGED), _AVERAGED)))
        self.mean_context, self.mean_pooled = context.mean((0, 1)), pooled.mean(0)  # [J], [P]
        self.tokens = context.shape[1]
        self._scales = float((context - context.mean(0)).square().mean()), float(pooled.var(0).mean())

    @staticmethod
    def of(checkpoint: Checkpoint) -> TextTeacher | None:
        """The teacher in a checkpoint's folder, if it has all the parts."""
        return TextTeacher(checkpoint) if all(checkpoint.has(part) for part in (*MODELS[2:], *TOKENIZERS)) else None

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Context [B, L, J] and pooled [B, P] of texts."""
        context, pooled = self._conditioner(self._tokenize(list(texts)))
        return context, pooled

    def check(self, queries: int) -> None:
        """Refuse another number of queries than there are tokens to say.

        Raises:
            RecipeError: token by token they cannot be compared.
        """
        if queries != self.tokens:
            raise RecipeError(
                f"{queries} queries cannot be aligned with {self.tokens} tokens of the text encoders",
                "set alignment.steps = 0, or num_queries of the config to that number",
            )

    def loss(self, texts: Sequence[str], context: Tensor, pooled: Tensor) -> Tensor:
        """The mean squared errors of both, each as a share of how much the target varies between texts."""
        said, meant = (each.to(context.device) for each in self(texts))
        errors = (context.float() - said).square().mean(), (pooled.float() - meant).square().mean()
        made: Tensor = errors[0] / self._scales[0] + errors[1] / self._scales[1]
        return made
