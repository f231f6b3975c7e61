"""Words and pictures → the token ids of one user turn, as transformers' chat template and processor make them.

The turn is tokenised as one text: the template's line break and a user's can make one token.
As in transformers, special tokens that a user writes out ("<|im_end|>") are read as special tokens: the model saw its
own template that way, equality with the reference holds for every prompt, and a turn holds one user's words only, so
that nobody's turn but their own is changed. The one exception is the image pad: written out it would stand for a
picture that is not there, and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ..errors import BundleError, RequestError
from .settings import ChatSettings

Ids = NDArray[np.int64]


class Chat:
    """One user turn, ready to be answered: prompts → ids [S] int64.

    Args:
        tokenizer: Qwen's.
        settings: the template's pieces, special ids, and the context in tokens.

    Raises:
        BundleError: the tokenizer does not know the image pad under the settings' id.
    """

    def __init__(self, tokenizer: Tokenizer, settings: ChatSettings) -> None:
        found = tokenizer.token_to_id(settings.image_pad)
        if found != settings.image_pad_id:
            raise BundleError(
                f"the tokenizer has {settings.image_pad} as {found}, the settings as {settings.image_pad_id}",
                "export the checkpoint again",
            )
        self._tokenizer, self.settings = tokenizer, settings

    def generation(self, prompt: str, room: int = 0) -> Ids:
        """The turn that asks for a picture; meta queries follow it.

        Args:
            prompt: what the picture shows.
            room: how many tokens must still fit after the turn.

        Raises:
            RequestError: the turn does not fit the context, or holds the image pad.
        """
        before, after = self.settings.generation.split("{prompt}")
        return self._turn(prompt, before + prompt + after, (), "", room)

    def editing(self, instruction: str, pictures: Sequence[int], room: int = 0) -> Ids:
        """The turn that asks for an edit: the pictures (each so many tokens), then the instruction.

        Raises:
            RequestError: the turn does not fit the context, or holds the image pad.
        """
        return self._turn(instruction, instruction, pictures, "", room)

    def question(
        self, question: str = "", pictures: Sequence[int] = (), room: int = 0, system: str | None = None
    ) -> Ids:
        """The turn that asks in words, about pictures or without one; without words it asks for a description.

        Args:
            question: the words.
            pictures: how many tokens each has.
            room: as in `generation`.
            system: said before, in place of the template's own; empty for nothing.

        Raises:
            RequestError: the turn does not fit the context, holds the image pad, or neither words nor a picture.
        """
        if not question and not pictures:
            raise RequestError("there is neither a question nor a picture", "give one of them")
        words, before = question or self.settings.describe, self.settings.answer_system
        if system is not None:
            before = self.settings.system_start + system + self.settings.turn_end if system else ""
        return self._turn(words + (system or ""), words, pictures, before, room)

    def _turn(self, given: str, content: str, pictures: Sequence[int], system: str, room: int) -> Ids:
        chat = self.settings
        if chat.image_pad in given:
            raise RequestError(f"the prompt contains {chat.image_pad}, which stands for a picture", "leave it out")
        start = system + chat.user_start + chat.picture * len(pictures)
        ids = self._encode(start + content + chat.turn_end + chat.assistant_start)
        repeats = np.ones(len(ids), np.int64)
        repeats[ids == chat.image_pad_id] = pictures
        total = int(repeats.sum()) + room
        if total > chat.context:
            raise RequestError(
                f"the prompt is too long: {total - room} tokens"
                + (f" with {sum(pictures)} of pictures" if pictures else "")
                + f", at most {chat.context - room} fit",
                "shorten the prompt" + (" or take a smaller picture" if pictures else ""),
            )
        return np.repeat(ids, repeats)

    def _encode(self, text: str) -> Ids:
        try:
            return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
        except (UnicodeEncodeError, TypeError) as error:  # a lone surrogate is no character
            raise RequestError("the prompt is not valid Unicode", "give it as UTF-8 text") from error
