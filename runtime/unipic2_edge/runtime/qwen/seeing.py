"""The eyes: patches → the embeddings of a picture's tokens (graph `vision`), the last few pictures remembered."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from ..conditioning import Sessions
from .preprocessing import SeenPicture
from .settings import VisionSettings
from .windows import vision_feed

Floats = NDArray[np.float32]

VISION_GRAPH = "vision"
_REMEMBERED = 64_000_000  # bytes; 512 pixels take 3.7 MB at full size


class Eyes:
    """Pictures → embeddings; a picture that is read under another rope, or again later, is not looked at twice.

    Args:
        sessions: the opened graphs.
        settings: geometry of the vision tower.
    """

    def __init__(self, sessions: Sessions, settings: VisionSettings) -> None:
        self._sessions, self._settings = sessions, settings
        self._seen: OrderedDict[bytes, Floats] = OrderedDict()

    def __call__(self, picture: SeenPicture) -> Floats:
        """The embeddings [N, H] of the picture's tokens, rows first.

        Raises:
            WorkError: the backend failed.
        """
        if picture.digest not in self._seen:
            feed = vision_feed(picture, self._settings)
            self._seen[picture.digest] = self._sessions[VISION_GRAPH].run(feed)["image_embeds"]
        self._seen.move_to_end(picture.digest)
        while len(self._seen) > 1 and sum(array.nbytes for array in self._seen.values()) > _REMEMBERED:
            self._seen.popitem(last=False)
        return self._seen[picture.digest]
