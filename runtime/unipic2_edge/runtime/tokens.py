"""Text to token ids: CLIP (with BOS, EOS) and T5 (with EOS), padded to a fixed length, by `tokenizers` alone.

A prompt that does not fit is refused with its token count: nothing is ever cut off silently.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .bundle import Bundle, TextConditioning, TokenizerEntry
from .errors import BundleError, RequestError

Ids = NDArray[np.int64]


class PromptTokenizer:
    """One encoder's tokenizer: texts → ids [B, length] int64.

    Args:
        definition: the bytes of a tokenizer.json; its post-processor adds BOS and EOS.
        entry: the fixed length in tokens (special tokens included) and the pad id.

    Raises:
        BundleError: the definition does not parse, or the pad id is not in its vocabulary.
    """

    def __init__(self, definition: bytes, entry: TokenizerEntry) -> None:
        self.length, self.pad_id = entry.length, entry.pad_id
        try:
            self._tokenizer = Tokenizer.from_buffer(definition)
        except Exception as error:  # tokenizers raises plain Exception
            raise BundleError(f"{entry.file} is not a tokenizer: {error}", "export the checkpoint again") from error
        pad = self._tokenizer.id_to_token(entry.pad_id)
        if pad is None:
            raise BundleError(f"{entry.file} has no token {entry.pad_id} to pad with", "export the checkpoint again")
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # transformers registers the pad token as special. CLIP-bigG's is "!", so that every "!" a user types
        # becomes a pad (id 0) instead of "!</w>": the model was trained that way, and so it must stay.
        self._tokenizer.add_special_tokens([pad])

    def __call__(self, texts: Sequence[str]) -> Ids:
        """Token ids [B, length] of `texts`.

        Raises:
            RequestError: a text has more tokens than `length`; the message says how many of how many.
        """
        ids = np.full((len(texts), self.length), self.pad_id, dtype=np.int64)  # [B, S]
        for row, encoding in zip(ids, self._tokenizer.encode_batch(list(texts)), strict=True):
            count = len(encoding.ids)
            if count > self.length:
                special = sum(encoding.special_tokens_mask)
                raise RequestError(
                    f"the prompt is too long: {count - special} tokens, at most {self.length - special} fit",
                    "shorten the prompt",
                )
            row[:count] = encoding.ids
        return ids


def open_text(bundle: Bundle) -> TextConditioning:
    """How the bundle reads text.

    Raises:
        BundleError: it has no text encoders.
    """
    if bundle.manifest.text is None:
        raise BundleError(
            f"{bundle.folder} has no text encoders to read a prompt with",
            "export the checkpoint again with all its components",
        )
    return bundle.manifest.text


def open_tokenizers(bundle: Bundle) -> dict[str, PromptTokenizer]:
    """The bundle's tokenizers by graph name (text_encoder, text_encoder_2, text_encoder_3).

    Raises:
        BundleError: the bundle has no text conditioning, or a tokenizer is missing or damaged.
    """
    entries = open_text(bundle).tokenizers
    return {graph: PromptTokenizer(bundle.read(entry.file), entry) for graph, entry in entries.items()}
