"""Qwen2.5-VL of a bundle, opened: its files on the host checked and read, its graphs left to be opened when needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from ..answer import Answer
from ..bundle import Bundle, QueryConditioning
from ..conditioning import Sessions
from ..errors import BundleError
from ..images import Picture
from .answering import answer_tokens
from .chat import Chat
from .embedding import TokenTable
from .language import HEAD_GRAPH
from .prefix import PrefixCache
from .preprocessing import count_tokens, see
from .querying import QueryConditioner
from .reading import Reader
from .sampling import Sampler, SamplingSettings
from .seeing import VISION_GRAPH
from .sequence import TokenSequence
from .settings import QwenSettings, read_settings
from .tokenizer import open_tokenizer
from .words import Words

_PREFIX_BYTES = 256_000_000  # of keys and values: seventeen pictures of 512 pixels at full size


@dataclass(frozen=True)
class Qwen:
    """The language model's host side: it reads sequences, answers questions, and conditions the denoiser."""

    settings: QwenSettings
    tokenizer: Tokenizer
    chat: Chat
    reader: Reader
    conditioner: QueryConditioner

    def answer(
        self,
        question: str,
        pictures: Sequence[Picture],
        sampling: SamplingSettings,
        max_new_tokens: int,
        system: str | None = None,
    ) -> Answer:
        """Answer a question about pictures, or without one; nothing is computed before the first piece is asked for.

        Raises:
            ImageError: a picture cannot be read.
            RequestError: neither words nor a picture, words that do not fit, a number out of range.
        """
        seen = tuple(see(picture, self.settings.vision) for picture in pictures)
        tokens = [count_tokens(picture.grid, self.settings.vision) for picture in seen]
        sequence = TokenSequence(self.chat.question(question, tokens, 1, system), seen)
        made = answer_tokens(self.reader, sequence, Sampler(sampling), max_new_tokens)
        return Answer(made, Words(self.tokenizer).add, len(sequence.ids))

    def graphs(self, *, seeing: bool) -> tuple[str, ...]:
        """The graphs that an answer needs, in the order in which it needs them."""
        return (*((VISION_GRAPH,) if seeing else ()), self.reader.model.graph, HEAD_GRAPH)


def open_qwen(bundle: Bundle, sessions: Sessions, in_place: bool = False, prefix_bytes: int = _PREFIX_BYTES) -> Qwen:
    """Open the host side.

    Args:
        bundle: of the variant `metaquery`.
        sessions: its graphs.
        in_place: whether the language model's session holds its cache.
        prefix_bytes: how much may be kept of what was read before.

    Raises:
        BundleError: the bundle has no language model, or a file is missing or damaged.
    """
    query = query_of(bundle)
    settings = read_settings(bundle.read(query.settings))
    tokenizer = open_tokenizer(bundle.read(query.tokenizer))
    chat = Chat(tokenizer, settings.chat)
    queries = TokenTable(bundle.path(query.queries))(np.arange(query.count))
    table = TokenTable(bundle.path(query.embeddings))
    reader = Reader(sessions, settings, table, queries, PrefixCache(prefix_bytes), in_place)
    return Qwen(settings, tokenizer, chat, reader, QueryConditioner(reader, chat, sessions, query.count))


def query_of(bundle: Bundle) -> QueryConditioning:
    """The record of the bundle's language model.

    Raises:
        BundleError: it has none.
    """
    if bundle.manifest.query is None:
        raise BundleError(
            f"the bundle {bundle.manifest.name} has no language model to answer with",
            "export a MetaQuery checkpoint with all its components",
        )
    return bundle.manifest.query
