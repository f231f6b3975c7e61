"""The way from words (and a picture) to the denoiser through a frozen Qwen2.5-VL and MetaQuery's conditioner.

The prompt's states are computed once, without gradient; the queries stand behind it as embeddings, and gradients run
back to them through the frozen layers (MetaQueries, arXiv 2504.06256; UniPic 2.0, arXiv 2509.04548).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..qwen.chat import Chat
from ..qwen.lessons import GENERATION_PROMPT
from ..qwen.model import embed
from ..qwen.sight import Sight, positions
from ..shapes.render import Picture

Rope = Literal["sequential", "mrope"]


@dataclass(frozen=True)
class Prompts:
    """User turns up to where the queries stand: ids [B, S] padded on the right, lengths [B], rope positions [3, S].

    `patches` and `grid` are of one picture a row, all of one size, or none. `shift` is what the picture takes off the
    count of positions behind it.
    """

    ids: Tensor
    lengths: Tensor
    places: Tensor
    patches: Tensor | None
    grid: tuple[int, int] | None
    shift: int


class Querying(nn.Module):
    """A language model that is asked with queries; nothing in it is trained.

    Args:
        qwen: a Qwen2.5-VL.
        chat: of its tokenizer.
        sight: of its image processor.
        rope: positions of an edited picture's tokens: `sequential`, as the released editing has them, or `mrope`.
    """

    def __init__(self, qwen: Any, chat: Chat, sight: Sight, rope: Rope = "sequential") -> None:
        super().__init__()
        self.qwen = qwen.requires_grad_(False).eval()
        self.chat, self.sight, self.rope = chat, sight, rope

    def train(self, mode: bool = True) -> Querying:
        """Stays in evaluation mode."""
        return self

    def prompts(self, texts: Sequence[str], pictures: Sequence[Picture] | None = None) -> Prompts:
        """Prompts of generation, or instructions with the pictures to edit, as the released scripts write them."""
        patches, grid = self.sight.patches(pictures, editing=True) if pictures is not None else (None, None)
        count = self.sight.tokens(grid) if grid else 0
        said = [text if grid else GENERATION_PROMPT.format(text) for text in texts]
        rows = [self.chat.prompt(text, count) for text in said]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.full((len(rows), int(lengths.max())), self.chat.pad_id)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
        turning = grid if self.rope == "mrope" else None
        first = int((ids[0] == self.chat.image_id).int().argmax())
        places = positions(ids.shape[1], first, turning, self.sight.merge)
        shift = ids.shape[1] - 1 - int(places[0, -1])
        return Prompts(ids, lengths, places, patches, grid, shift)

    def forward(self, prompts: Prompts, queries: Tensor) -> Tensor:
        """Prompts of B rows and queries [Q, H] → the queries' last hidden states [B, Q, H]."""
        device = queries.device
        ids, lengths = prompts.ids.to(device), prompts.lengths.to(device)
        rows, width = ids.shape
        language = self.qwen.model.language_model
        cache = DynamicCache(config=self.qwen.config.text_config)
        with torch.no_grad():
            language(
                inputs_embeds=embed(self.qwen, ids, prompts.patches, prompts.grid),
                position_ids=prompts.places.to(device)[:, None].expand(3, rows, width),
                past_key_values=cache,
                use_cache=True,
            )
        own = torch.arange(len(queries), device=device)
        places = lengths[:, None] - prompts.shift + own  # [B, Q]; pads take no place
        seen = torch.arange(width, device=device) < lengths[:, None]  # [B, S]
        mask = torch.cat([seen, torch.ones(rows, len(queries), dtype=torch.bool, device=device)], dim=1)
        made = language(
            inputs_embeds=queries.to(self.qwen.dtype).expand(rows, *queries.shape),
            attention_mask=mask.long(),
            position_ids=places.expand(3, *places.shape),
            past_key_values=cache,
            use_cache=True,
        )
        hidden: Tensor = made.last_hidden_state
        return hidden.to(queries.dtype)
