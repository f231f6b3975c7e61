"""A client of OpenAI-compatible chat servers: tried again while that may help, clear where it will not."""

from __future__ import annotations

import os
import time
from types import ModuleType
from typing import Any

from ..errors import RecipeError, SuspendedWorkError
from .settings import Judge

Message = dict[str, Any]

_FIRST_PAUSE = 1.0  # seconds before the second attempt; doubled before each further one
_LONGEST_PAUSE = 30.0
_CHECK_TIMEOUT = 10.0  # seconds for the look at the server before anything starts
_BUSY = (408, 409, 425, 429)  # of the 4xx, those that pass


class ChatServer:
    """Asks one model. May be called from several threads at once.

    Args:
        settings: address, model, key, timeout, retries.

    Raises:
        RecipeError: httpx is not installed, or the address is none.
    """

    def __init__(self, settings: Judge) -> None:
        self.settings, self.model = settings, settings.model
        self._httpx = _library()
        key = os.environ.get(settings.key_variable, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if not settings.url.startswith(("http://", "https://")):
            raise RecipeError(f"the judge's url {settings.url!r} is none", "one like http://127.0.0.1:8000/v1")
        self._client = self._httpx.Client(headers=headers, timeout=settings.timeout)

    def check(self) -> None:
        """See that the server is there and has the model; without a name take its only one.

        Raises:
            RecipeError: it is not there, refuses the key, or has not this model.
        """
        where = f"the judge at {self.settings.url}"
        try:
            answer = self._client.get(self._address("models"), timeout=min(_CHECK_TIMEOUT, self.settings.timeout))
        except (self._httpx.HTTPError, self._httpx.InvalidURL) as error:
            raise RecipeError(f"{where} cannot be reached: {_told(error)}", "start it, or correct its url") from error
        if answer.status_code in (401, 403):
            raise RecipeError(f"{where} refuses the key ({answer.status_code})", f"set {self.settings.key_variable}")
        if answer.status_code in (404, 405) and self.model:
            return  # it does not list its models
        names = _model_names(answer) if answer.is_success else None
        if names is None:
            raise RecipeError(
                f"{where} lists no models ({answer.status_code})",
                "the url ends in /v1 as a rule; give the model's name",
            )
        if not self.model and len(names) == 1:
            self.model = names[0]
        if self.model not in names:
            problem = f"has not the model {self.model}" if self.model else "has several models, and none is named"
            raise RecipeError(f"{where} {problem}", f"it has {', '.join(names) or 'none'}")

    def ask(self, messages: list[Message]) -> str:
        """The answer's text.

        Raises:
            SuspendedWorkError: the server refuses the request, or has not answered in any attempt.
        """
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.settings.max_tokens,
            "temperature": self.settings.temperature,
        }
        pause, problem = _FIRST_PAUSE, ""
        for attempt in range(self.settings.retries + 1):
            if attempt:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                answer = self._client.post(self._address("chat/completions"), json=body)
            except self._httpx.HTTPError as error:
                problem = _told(error)
                continue
            if 400 <= answer.status_code < 500 and answer.status_code not in _BUSY:
                self._refused(answer)
            text = _text(answer) if answer.is_success else None
            if text is not None:
                return text
            problem = f"{answer.status_code} {_excerpt(answer)}"
        raise SuspendedWorkError(
            f"the judge at {self.settings.url} did not answer: {problem} ({self.settings.retries + 1} attempts)",
            "bring it back and give the same command",
        )

    def _refused(self, answer: Any) -> None:
        raise SuspendedWorkError(
            f"the judge at {self.settings.url} refuses the request: {answer.status_code} {_excerpt(answer)}",
            f"see the settings of the judge, and {self.settings.key_variable}",
        )

    def _address(self, path: str) -> str:
        return f"{self.settings.url.rstrip('/')}/{path}"


def _library() -> ModuleType:
    try:
        import httpx
    except ImportError as error:
        raise RecipeError("a judge needs httpx", 'pip install "unipic2-edge[train]"') from error
    return httpx


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _excerpt(answer: Any) -> str:
    """The beginning of what an answer says, on one line."""
    return " ".join(answer.text.split())[:200]


def _model_names(answer: Any) -> list[str] | None:
    try:
        return [str(model["id"]) for model in answer.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return None


def _text(answer: Any) -> str | None:
    """The first choice's words; None where the answer is no chat completion."""
    try:
        text = answer.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return text if isinstance(text, str) else ""
