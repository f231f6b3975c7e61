"""The tokenizer of a bundle, from the bytes of its tokenizer.json."""

from __future__ import annotations

from tokenizers import Tokenizer

from ..errors import BundleError


def open_tokenizer(definition: bytes) -> Tokenizer:
    """A tokenizer that neither pads nor truncates.

    Raises:
        BundleError: the definition does not parse.
    """
    try:
        tokenizer = Tokenizer.from_buffer(definition)
    except Exception as error:  # tokenizers raises plain Exception
        raise BundleError(
            f"Qwen's tokenizer.json is not a tokenizer: {error}", "export the checkpoint again"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
