"""The one tree of user errors: every message says what is wrong, and how to mend it.

`RequestError` (exit code 2): what was asked for cannot be done as asked; nothing was changed.
`WorkError` (exit code 1): the request was fine and the work failed; what stood before still stands.
"""

from __future__ import annotations


class UserError(Exception):
    """An error a user can act on, shown as two lines and never as a traceback.

    Args:
        problem: one line, what is wrong.
        mend: one line, what the user can do about it.
    """

    exit_code = 1

    def __init__(self, problem: str, mend: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.problem} ({self.mend})" if self.mend else self.problem


class RequestError(UserError):
    """The request was wrong: bad argument, bad prompt, bad size, unusable input file."""

    exit_code = 2


class BundleError(RequestError):
    """The folder is not a bundle this version can serve: missing, foreign, incomplete or damaged."""


class CheckpointError(RequestError):
    """The folder is not a checkpoint in the published layout, or a part of it is missing or damaged."""


class RecipeError(RequestError):
    """The recipe does not exist, does not parse, or asks for something that cannot be."""


class ImageError(RequestError):
    """The picture cannot be read: missing, too large, damaged, or in a format that is not served."""


class OutputError(RequestError):
    """The output cannot be written where it was asked for."""


class MissingDependencyError(RequestError):
    """An optional library is needed and is not installed; `mend` names the extra that brings it."""


class WorkError(UserError):
    """The request was fine, the work failed (disk full, a numerical check missed, a compiler error)."""

    exit_code = 1


class MemoryRanOutError(WorkError):
    """The device's memory ran out; fewer or smaller pictures at once may fit."""


class DeviceLostError(WorkError):
    """The device failed in a way that leaves its context unusable; the pipeline must be loaded again."""


class InterruptedWorkError(WorkError):
    """The user stopped the work; what was finished is kept and nothing is half-written."""

    exit_code = 1
