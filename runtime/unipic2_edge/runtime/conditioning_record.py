"""What the manifest says of the two ways in which the denoiser is told: by CLIP and T5, or by Qwen2.5-VL."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of everything in the manifest: immutable, and strict about unknown fields."""


class TokenizerEntry(Record, frozen=True):
    """One tokenizer.json with its fixed length in tokens and its pad id."""

    file: str
    length: int
    pad_id: int


class TextConditioning(Record, frozen=True):
    """How the two CLIPs and T5 make context [B, L, context_dim] and pooled [B, pooled_dim]."""

    tokenizers: dict[str, TokenizerEntry]  # keyed by graph: text_encoder, text_encoder_2, text_encoder_3
    context_dim: int
    pooled_dim: int


class QueryConditioning(Record, frozen=True):
    """How Qwen2.5-VL and the connector make context [B, Q, context_dim] and pooled [B, pooled_dim], and answer."""

    settings: str  # files: see `qwen/settings.py`
    tokenizer: str
    embeddings: str  # of the tokens, [V, H]
    queries: str  # [Q, H]
    count: int  # Q
    context_dim: int
    pooled_dim: int

    @property
    def files(self) -> list[str]:
        """What the host opens."""
        return [self.settings, self.tokenizer, self.embeddings, self.queries]
