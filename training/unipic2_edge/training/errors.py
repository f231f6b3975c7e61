"""Training's own user errors, of the same shape as the runtime's: what is wrong, and how to mend it."""

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
    """The request was wrong; nothing was changed."""

    exit_code = 2


class CheckpointError(RequestError):
    """The folder is not a checkpoint in the published layout, or a part of it is missing or damaged."""


class RecipeError(RequestError):
    """The recipe does not exist, does not parse, or asks for something that cannot be."""


class DataError(RequestError):
    """The training data that a recipe names is not there, broken, or has not the fields it should have."""


class OutputError(RequestError):
    """The output cannot be written where it was asked for."""


class WorkError(UserError):
    """The request was fine, the work failed."""


class InterruptedWorkError(WorkError):
    """The user stopped the work; what was finished is kept and nothing is half-written."""


class SuspendedWorkError(WorkError):
    """Something that the work needs is gone for now; the training loop saves its state before it passes this on."""
