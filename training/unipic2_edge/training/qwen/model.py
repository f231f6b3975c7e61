"""Qwen2.5-VL, transformers' own class, run with explicit positions: features of a picture, states, answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from ..configs import Config
from .batched_vision import is_one_window, picture_tokens
from .sight import Grid


def new_qwen(config: Config) -> Qwen2_5_VLForConditionalGeneration:
    """A model with transformers' own random initialisation, whose generation ends at a turn's end.

    Attention is plain matmuls: its backward is faster than the fused one's on a CPU at small sizes.
    """
    whole = Qwen2_5_VLConfig(**config)
    model = Qwen2_5_VLForConditionalGeneration._from_config(whole, attn_implementation="eager")
    set_generation(model, config)
    return model


def set_generation(model: Any, config: Config) -> None:
    """The generation config as published, but greedy: it ends at `<|im_end|>` or `<|endoftext|>`."""
    text = config["text_config"]
    model.generation_config.update(
        bos_token_id=text["bos_token_id"],
        eos_token_id=[text["eos_token_id"], text["bos_token_id"]],
        pad_token_id=text["bos_token_id"],
        do_sample=False,
    )


def embed(model: Any, ids: Tensor, patches: Tensor | None, grid: Grid | None) -> Tensor:
    """Token ids [B, S] and the patches of one picture a row → embeddings [B, S, H]."""
    embedded: Tensor = model.get_input_embeddings()(ids)
    if patches is None or grid is None:
        return embedded
    visual = model.model.visual
    patches = patches.to(visual.dtype)
    if is_one_window(visual, grid):
        seen = picture_tokens(visual, patches.to(ids.device), grid)
    else:
        grids = torch.tensor([[1, *grid]] * len(ids), device=ids.device)
        seen = torch.cat(model.model.get_image_features(patches.to(ids.device), grids).pooler_output)
    mask = (ids == model.config.image_token_id)[..., None]
    return embedded.masked_scatter(mask, seen.to(embedded.dtype))


def states(model: Any, embedded: Tensor, places: Tensor, cache: DynamicCache | None = None) -> Tensor:
    """Embeddings [B, S, H] at rope positions [3, S] → last hidden states after the final norm [B, S, H]."""
    spread = places.to(embedded.device)[:, None].expand(3, len(embedded), -1)
    made = model.model.language_model(
        inputs_embeds=embedded, position_ids=spread, past_key_values=cache, use_cache=cache is not None
    )
    hidden: Tensor = made.last_hidden_state
    return hidden


@torch.inference_mode()
def answers(
    model: Any, ids: Tensor, places: Tensor, patches: Tensor | None, grid: Grid | None, limit: int, ends: Sequence[int]
) -> list[list[int]]:
    """Greedy answers to prompts of one length.

    Args:
        model: a Qwen2.5-VL.
        ids: prompts [B, S].
        places: their rope positions [3, S].
        patches: of one picture a prompt, or none.
        grid: of each picture.
        limit: the most tokens of an answer.
        ends: token ids that end an answer, and are not part of it.
    """
    cache = DynamicCache(config=model.config.text_config)
    hidden = states(model, embed(model, ids, patches, grid), places, cache)
    made: list[Tensor] = []
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    following = places[:, -1:].max(0, keepdim=True).values.expand(3, 1)
    for _ in range(limit):
        token = model.lm_head(hidden[:, -1:]).argmax(-1)  # [B, 1]
        made.append(token[:, 0])
        ended |= torch.isin(token[:, 0], torch.tensor(ends, device=ids.device))
        if bool(ended.all()):
            break
        following = following + 1
        hidden = states(model, embed(model, token, None, None), following, cache)
    rows = torch.stack(made, 1).tolist()
    return [_until(row, ends) for row in rows]


def _until(row: list[int], ends: Sequence[int]) -> list[int]:
    stop = next((place for place, token in enumerate(row) if token in ends), len(row))
    return row[:stop]
