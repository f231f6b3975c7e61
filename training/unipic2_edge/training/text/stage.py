"""The text stage: three small encoders learn to say what a text means, each from its own tokens.

The published encoders were trained on web text before the denoiser saw them; this stage stands in for that.
CLIP's pooled embedding and the mean of T5's states must each predict every field of the meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from ..checkpoint import TextTokenizers
from ..configs import KONTEXT
from ..folders import publishing
from ..loop.stage import TOKENS, Stage
from ..recipe import Recipe
from ..shapes.captions import held_out_text
from .corpus import sentences
from .meaning import FIELDS, meaning_of
from .tokenizers import build_tokenizers

_CORPUS = 6_000
_EVALUATED = 400


class TextEncoders(nn.Module):
    """The three encoders and a linear reader of the meaning on each (the readers are thrown away)."""

    def __init__(self, config: str) -> None:
        super().__init__()
        sizes = KONTEXT[config]
        self.text_encoder = CLIPTextModelWithProjection(CLIPTextConfig(**sizes.text_encoder))
        self.text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(**sizes.text_encoder_2))
        self.text_encoder_3 = T5EncoderModel(T5Config(**sizes.text_encoder_3))
        answers = sum(len(values) for values in FIELDS.values())
        widths = (
            sizes.text_encoder["projection_dim"],
            sizes.text_encoder_2["projection_dim"],
            sizes.text_encoder_3["d_model"],
        )
        self.readers = nn.ModuleList(nn.Linear(width, answers) for width in widths)

    def forward(self, ids: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        """Token ids, each [B, length], → each encoder's logits of all fields [B, answers]."""
        pooled = [
            self.text_encoder(ids[0]).text_embeds,
            self.text_encoder_2(ids[1]).text_embeds,
            self.text_encoder_3(ids[2]).last_hidden_state.mean(1),
        ]
        return [reader(vector) for reader, vector in zip(self.readers, pooled, strict=True)]


class TextStage(Stage):
    """Trains `TextEncoders` on captions and instructions; builds the tokenizers first."""

    def __init__(self, recipe: Recipe, output: Path) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self.model: nn.Module = TextEncoders(recipe.config)
        self.tokenizer_folder = output / "tokenizers"
        texts = list(islice(sentences(_CORPUS, recipe.seed), 2 * _CORPUS))
        output.mkdir(parents=True, exist_ok=True)
        with FileLock(output / "tokenizers.lock"):
            if not self.tokenizer_folder.exists():
                with publishing(self.tokenizer_folder) as folder:
                    build_tokenizers(texts, folder, KONTEXT[recipe.config])
        self.tokenize = TextTokenizers(self.tokenizer_folder)
        unique = sorted(set(texts))
        self.training = [text for text in unique if not held_out_text(text)]
        self.unseen = [text for text in unique if held_out_text(text)][:_EVALUATED]

    def losses(self, step: int, device: torch.device) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Cross-entropy summed over fields, averaged over the three encoders."""
        for micro in range(self.recipe.gradient_accumulation):
            generator = torch.Generator().manual_seed((self.recipe.seed << 32) + step * 64 + micro)
            size = self.recipe.batch_size
            picks = torch.randint(len(self.training), (self.share.total(size),), generator=generator)
            picks = picks[self.share.rows(size)]
            texts = [self.training[int(i)] for i in picks]
            targets = torch.tensor([meaning_of(text) for text in texts], device=device)  # [B, fields]
            ids = tuple(part.to(device) for part in self.tokenize(texts))
            each = [_cross_entropy(logits, targets) for logits in self.model(ids)]
            yield torch.stack(each).mean(), {TOKENS: sum(part.numel() for part in ids)}

    def flops(self) -> float:
        """Counted on the meta device."""
        from ..planning.dry_run import planned_flops  # which imports every stage's models

        return planned_flops(self.recipe)

    def samples(self, folder: Path, step: int) -> dict[str, float]:
        """The share of unseen texts that each encoder reads right in every field."""
        device = next(self.model.parameters()).device
        targets = torch.tensor([meaning_of(text) for text in self.unseen], device=device)
        ids = tuple(part.to(device) for part in self.tokenize(self.unseen))
        return {
            f"understood_{index + 1}": float(_all_right(logits, targets).float().mean())
            for index, logits in enumerate(self.model(ids))
        }

    def finish(self, output: Path) -> None:
        """Scale the projections so that pooled embeddings have unit deviation, then write the three encoders."""
        ids = self.tokenize(self.training[:_EVALUATED])
        for index, name in enumerate(("text_encoder", "text_encoder_2")):
            encoder = getattr(self.model, name)
            encoder.text_projection.weight /= encoder(ids[index]).text_embeds.std()
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
            getattr(self.model, name).save_pretrained(output / name)


def _split(logits: Tensor) -> tuple[Tensor, ...]:
    return torch.split(logits, [len(values) for values in FIELDS.values()], dim=-1)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    parts = [functional.cross_entropy(part, target) for part, target in zip(_split(logits), targets.T, strict=True)]
    return torch.stack(parts).sum()


def _all_right(logits: Tensor, targets: Tensor) -> Tensor:
    right = [part.argmax(-1) == target for part, target in zip(_split(logits), targets.T, strict=True)]
    return torch.stack(right).all(0)
