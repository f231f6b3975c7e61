"""Prompts and pictures → what the denoiser needs: meta queries read after the turn, then the graph `connector`.

Source: UniPic 2.0 (arXiv 2509.04548) after MetaQuery (arXiv 2504.06256): queries stand after the assistant's start;
each prompt is read alone, so that nothing is padded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL.Image import Image

from ..conditioning import Conditioning, Sessions
from .chat import Chat
from .preprocessing import SeenPicture, count_tokens, edit_pixels, see
from .reading import Reader
from .seeing import VISION_GRAPH
from .sequence import TokenSequence

CONNECTOR_GRAPH = "connector"
_REMEMBERED = 32  # 4.2 MB each at full size


@dataclass(frozen=True)
class Turn:
    """A user's turn: words, and the picture that they are about by its identity; `sequence` follows from both."""

    prompt: str
    picture: bytes | None
    sequence: TokenSequence = field(compare=False)


class QueryConditioner:
    """Turns → conditioning, each computed once as long as it stays among the most recent ones.

    Args:
        reader: of the language model; it has the meta queries.
        chat: writes the turns.
        sessions: the opened graphs.
        queries: Q, how many meta queries there are.
    """

    def __init__(self, reader: Reader, chat: Chat, sessions: Sessions, queries: int) -> None:
        self._reader, self._chat, self._sessions, self._queries = reader, chat, sessions, queries
        self._known: OrderedDict[bytes, Conditioning] = OrderedDict()

    def graphs(self, *, editing: bool) -> tuple[str, ...]:
        """Eyes only where there is something to see."""
        return (*((VISION_GRAPH,) if editing else ()), self._reader.model.graph, CONNECTOR_GRAPH)

    def turns(self, prompts: Sequence[str], pictures: Sequence[Image] | None = None) -> Sequence[Turn]:
        """Each prompt as a turn; a picture is seen at the editing size of its own size.

        Raises:
            RequestError: a turn does not fit the context, or a prompt holds the image pad.
        """
        if pictures is None:
            return [
                Turn(prompt, None, TokenSequence(self._chat.generation(prompt, self._queries))) for prompt in prompts
            ]
        distinct = {id(picture): self._see(picture) for picture in pictures}
        return [self._editing(prompt, distinct[id(picture)]) for prompt, picture in zip(prompts, pictures, strict=True)]

    def _see(self, picture: Image) -> SeenPicture:
        vision = self._reader.settings.vision
        return see(picture, vision, edit_pixels(*picture.size, vision))

    def _generation(self, prompt: str) -> Turn:
        return Turn(prompt, None, TokenSequence(self._chat.generation(prompt, self._queries)))

    def _editing(self, prompt: str, seen: SeenPicture) -> Turn:
        tokens = count_tokens(seen.grid, self._reader.settings.vision)
        ids = self._chat.editing(prompt, [tokens], self._queries)
        return Turn(prompt, seen.digest, TokenSequence(ids, (seen,)))

    def __call__(self, turns: Iterable[Turn]) -> Conditioning:
        """Context [B, Q, J] and pooled [B, P] of B turns, in their order.

        Raises:
            WorkError: a graph failed.
        """
        found = [self._one(turn.sequence) for turn in turns]
        return Conditioning(
            np.concatenate([one.context for one in found]), np.concatenate([one.pooled for one in found])
        )

    def _one(self, turn: TokenSequence) -> Conditioning:
        key = turn.marks(self._reader.settings).tobytes()
        if key not in self._known:
            rope = self._reader.settings.rope.condition
            hidden = self._reader.read(turn.with_queries(self._queries), rope, self._queries).hidden
            outputs = self._sessions[CONNECTOR_GRAPH].run({"hidden": hidden})
            self._known[key] = Conditioning(outputs["context"], outputs["pooled"])
        self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return self._known[key]
