"""MetaQuery's own graphs against transformers, led by the runtime's host side: pictures, positions, cache and all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.conditioning import Sessions
from unipic2_edge.runtime.errors import CheckpointError
from unipic2_edge.runtime.qwen.language import LanguageModel
from unipic2_edge.runtime.qwen.opening import Qwen, open_qwen
from unipic2_edge.runtime.qwen.preprocessing import see
from unipic2_edge.runtime.qwen.querying import Turn
from unipic2_edge.runtime.qwen.seeing import Eyes
from unipic2_edge.runtime.session import Session
from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint
from unipic2_edge.training.metaquery.conditioner import MetaQueryConditioner
from unipic2_edge.training.metaquery.querying import Querying
from unipic2_edge.training.qwen.sight import positions

from .comparing import Comparison, arrays_of, open_graph

_TEXTS = ("a red circle", "two blue squares on a white background", "make the largest ring yellow")
_SIZES = ((64, 64), (96, 64), (224, 160))  # of pictures, in pixels
_TOKENS = 23  # of a made-up sequence, read in pieces of
_PIECE = 9


class _Opened(dict[str, Session]):
    """Sessions by name, opened when they are first asked for."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self._bundle = bundle

    def __missing__(self, name: str) -> Session:
        self[name] = open_graph(self._bundle, name)
        return self[name]


class _Sides:
    """Both sides of the comparisons of one bundle."""

    def __init__(self, bundle: Bundle, checkpoint: Checkpoint) -> None:
        if not isinstance(checkpoint, MetaqueryCheckpoint):
            raise CheckpointError(
                f"{checkpoint.folder} is no MetaQuery checkpoint", "give the one that the bundle was exported from"
            )
        self.checkpoint = checkpoint
        self.sessions: Sessions = _Opened(bundle)
        self.ours: Qwen = open_qwen(bundle, self.sessions)

    @cached_property
    def theirs(self) -> Querying:
        """transformers' model, with the way of leading it that training has."""
        return Querying(self.checkpoint.load_qwen(), self.checkpoint.chat(), self.checkpoint.sight())

    @cached_property
    def conditioner(self) -> MetaQueryConditioner:
        """The checkpoint's."""
        return self.checkpoint.load_meta_conditioner()


def _picture(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def compare_vision(bundle: Bundle, checkpoint: Checkpoint, component: str) -> Iterator[Comparison]:
    """The tokens of pictures of several sizes."""
    sides = _Sides(bundle, checkpoint)
    eyes = Eyes(sides.sessions, sides.ours.settings.vision)
    visual = sides.theirs.qwen.model.visual
    for size in _SIZES:
        seen = see(_picture(size), sides.ours.settings.vision)
        expected = visual(torch.from_numpy(seen.patches), grid_thw=torch.tensor([seen.grid]))
        yield "image_embeds", f"{size[0]}x{size[1]}", eyes(seen), expected.pooler_output


def compare_language(bundle: Bundle, checkpoint: Checkpoint, component: str) -> Iterator[Comparison]:
    """Meta queries behind prompts and instructions, and a sequence read whole, in pieces, and token by token."""
    sides = _Sides(bundle, checkpoint)
    querying, queries = sides.theirs, sides.conditioner.meta_queries.detach()
    picture = _picture(_SIZES[0])
    for task, pictures in (("generate", None), ("edit", [picture] * len(_TEXTS))):
        raw = None if pictures is None else [np.asarray(one) for one in pictures]
        expected = torch.cat(
            [querying(querying.prompts([text], raw[:1] if raw else None), queries) for text in _TEXTS]
        )  # one by one: padding would not be read
        turns = sides.ours.conditioner.turns(_TEXTS, pictures)
        made = np.concatenate([_encoded(sides.ours, turn, len(queries)) for turn in turns])
        yield "hidden", f"{task}, {len(queries)} queries", made, expected
    yield from _in_pieces(sides)


def _encoded(ours: Qwen, turn: Turn, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return ours.reader.read(turn.sequence.with_queries(count), ours.settings.rope.condition, count).hidden


def _in_pieces(sides: _Sides) -> Iterator[Comparison]:
    ids = np.random.default_rng(3).integers(0, 200, _TOKENS)
    embedded = sides.ours.reader.embed(ids)[None]
    places = positions(_TOKENS)
    expected = sides.theirs.qwen.model.language_model(
        inputs_embeds=torch.from_numpy(embedded), position_ids=places[:, None], use_cache=False
    ).last_hidden_state
    for case, piece in (("whole", _TOKENS), (f"in pieces of {_PIECE}", _PIECE), ("token by token", 1)):
        model = LanguageModel(sides.sessions, sides.ours.settings.rope, piece)
        hidden, _ = model.prefill(embedded, places.numpy(), model.empty(), _TOKENS)
        yield "hidden", f"{_TOKENS} tokens {case}", hidden, expected


def compare_head(bundle: Bundle, checkpoint: Checkpoint, component: str) -> Iterator[Comparison]:
    """Logits of random states."""
    sides = _Sides(bundle, checkpoint)
    head, session = sides.theirs.qwen.lm_head, sides.sessions[component]
    hidden = torch.randn(1, 5, head.in_features, generator=torch.Generator().manual_seed(5))
    yield "logits", "5 states", session.run(arrays_of(session, hidden=hidden))["logits"], head(hidden)


def compare_connector(bundle: Bundle, checkpoint: Checkpoint, component: str) -> Iterator[Comparison]:
    """Context and pooled of random states."""
    sides = _Sides(bundle, checkpoint)
    session = sides.sessions[component]
    hidden = torch.randn(2, *sides.conditioner.meta_queries.shape, generator=torch.Generator().manual_seed(6))
    made, expected = session.run(arrays_of(session, hidden=hidden)), sides.conditioner(hidden)
    for output, tensor in zip(("context", "pooled"), expected, strict=True):
        yield output, "2 rows of states", made[output], tensor
