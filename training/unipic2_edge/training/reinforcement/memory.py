"""The episode that is being learned from, kept over a stop in the middle of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from ..flow import Condition
from .algorithm import Episode, Told
from .episodes import Drawn
from .rollout import Trajectory


class Memory:
    """Holds one episode or none; its state is plain values and tensors."""

    def __init__(self) -> None:
        self.number = -1
        self._drawn: Drawn | None = None

    def put(self, number: int, drawn: Drawn) -> None:
        """Keep an episode."""
        self.number, self._drawn = number, drawn

    def forget(self) -> None:
        """Drop it."""
        self.number, self._drawn = -1, None

    def drawn(self, device: torch.device) -> Drawn:
        """The episode that `put` or a state brought; one from a state is moved to the device.

        Raises:
            RuntimeError: there is none.
        """
        if self._drawn is None:
            raise RuntimeError("no episode has been drawn")
        if self._drawn.episode.advantages.device != device:
            self._drawn = _restored(_moved(asdict(self._drawn), device))
        return self._drawn

    def state_dict(self) -> dict[str, Any]:
        """Its number and all of it."""
        return {"number": self.number, "drawn": None if self._drawn is None else asdict(self._drawn)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.number = state_dict["number"]
        self._drawn = None if state_dict["drawn"] is None else _restored(state_dict["drawn"])


def _restored(drawn: dict[str, Any]) -> Drawn:
    episode = drawn["episode"]
    told = episode["told"]
    negative = None if told["negative"] is None else Condition(**told["negative"])
    return Drawn(
        Episode(
            Told(Condition(**told["prompts"]), negative, told["guidance"]),
            Trajectory(**episode["trajectory"]),
            episode["sigmas"],
            episode["advantages"],
        ),
        drawn["metrics"],
    )


def _moved(content: Any, device: torch.device) -> Any:
    if isinstance(content, dict):
        return {name: _moved(value, device) for name, value in content.items()}
    return content.to(device) if isinstance(content, torch.Tensor) else content
