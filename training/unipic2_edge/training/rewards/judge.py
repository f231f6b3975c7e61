"""A judge as a reward: a model behind an OpenAI-compatible server looks at pictures and answers with scores."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..errors import RecipeError, SuspendedWorkError
from .chat_server import ChatServer, Message
from .judge_questions import WORDINGS, Questions
from .reward import Asked, Picture, Rating, Reward
from .settings import Judge

_MOST = 10.0
_AGAIN = "That was not the answer asked for. {form}"


@dataclass(frozen=True)
class Opinion:
    """The scores of one picture, 0…1 by question; none where the judge has twice answered nonsense."""

    scores: Mapping[str, float]

    @property
    def answered(self) -> bool:
        """Whether there are scores."""
        return bool(self.scores)

    @property
    def value(self) -> float:
        """The geometric mean of the scores, as VIEScore joins its parts; 0 without any."""
        return math.prod(self.scores.values()) ** (1 / len(self.scores)) if self.scores else 0.0


class JudgeReward(Reward):
    """The geometric mean of the answers; each answer a part, and `unanswered` the share of nonsense, which is worth 0.

    Args:
        settings: of the judge.

    Raises:
        RecipeError: there is no such wording, no such server, or it has not this model.
    """

    name = "judge"

    def __init__(self, settings: Judge) -> None:
        if settings.wording not in WORDINGS:
            raise RecipeError(
                f"there is no wording {settings.wording!r} of a judge's questions", f"use {', '.join(WORDINGS)}"
            )
        self.settings, self.wording = settings, WORDINGS[settings.wording]
        self.server = ChatServer(settings)
        self.server.check()

    def rates(self, asked: Asked) -> bool:
        """The tasks that the settings name."""
        return ("generate" if asked.source is None else "edit") in self.settings.tasks

    def rate(self, asked: Sequence[Asked], pictures: Sequence[Picture]) -> list[Rating]:
        """Ask about every picture.

        Raises:
            SuspendedWorkError: the server refuses, does not answer, or all that it answers is nonsense.
        """
        return [
            Rating(opinion.value, {**opinion.scores, "unanswered": float(not opinion.answered)})
            for opinion in self.opinions(asked, pictures)
        ]

    def opinions(self, asked: Sequence[Asked], pictures: Sequence[Picture]) -> list[Opinion]:
        """What the judge says of every picture, several asked about at once.

        Raises:
            SuspendedWorkError: as for `rate`.
        """
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            opinions = list(pool.map(self._opinion, asked, pictures))
        if opinions and not any(opinion.answered for opinion in opinions):
            raise SuspendedWorkError(
                f"the judge {self.server.model} answered nothing but nonsense about {len(opinions)} pictures",
                "take a model that sees pictures and answers in JSON, or raise max_tokens",
            )
        return opinions

    def _opinion(self, asked: Asked, picture: Picture) -> Opinion:
        questions = self.wording.generate if asked.source is None else self.wording.edit
        shown = [picture] if asked.source is None else [asked.source, picture]
        messages = _messages(questions, asked.text, shown)
        answer = self.server.ask(messages)
        scores = parsed(answer, questions)
        if scores is None:
            again = {"role": "user", "content": _AGAIN.format(form=questions.form)}
            scores = parsed(self.server.ask([*messages, {"role": "assistant", "content": answer}, again]), questions)
        return Opinion(scores or {})


def parsed(answer: str, questions: Questions) -> dict[str, float] | None:
    """The scores of an answer, 0…1: one JSON object with a number from 0 to 10 for each question; else None.

    A code fence around it is not held against a model.
    """
    text = answer.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text.removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    scores: dict[str, Any] = {name: found.get(name) for name in questions.scores}
    # `bool` is an `int` in Python; NaN compares false with everything.
    if not all(type(score) in (int, float) and 0 <= score <= _MOST for score in scores.values()):
        return None
    return {name: score / _MOST for name, score in scores.items()}


def _messages(questions: Questions, text: str, pictures: Sequence[Picture]) -> list[Message]:
    """Pictures before words, as chat templates of models that see have it."""
    content: list[Message] = [{"type": "image_url", "image_url": {"url": data_uri(picture)}} for picture in pictures]
    content.append({"type": "text", "text": f"{questions.user.replace('{text}', text)}\n\n{questions.form}"})
    return [{"role": "system", "content": questions.system}, {"role": "user", "content": content}]


def data_uri(picture: Picture) -> str:
    """A picture as a PNG in a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
