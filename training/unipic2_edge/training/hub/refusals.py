"""What a hub, a network or a disk refuses, as errors that say what is wrong and how to mend it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from ..errors import OutputError, RequestError, UserError, WorkError

_AGAIN = "what was fetched is kept: the same command goes on"


@contextmanager
def hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Whatever the hub's client raises in this block, as a user's error about `repo`.

    Raises:
        RequestError: no such repository or revision, no access, not in the cache while offline.
        OutputError: the cache cannot be written.
        WorkError: the hub cannot be reached or fails, the disk is full.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        refused = _refused(error, repo, revision)
        if refused is None:
            raise
        raise refused from error


def _refused(error: Exception, repo: str, revision: str | None) -> UserError | None:
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError | RevisionResolutionError):
        return _unreachable(error, repo)
    if isinstance(error, HFValidationError):
        return RequestError(f"{repo!r} is no name of a repository", "give it as OWNER/NAME")
    if isinstance(error, HfHubHTTPError):
        return _answered(error, repo, revision)
    if isinstance(error, httpx.HTTPError):
        return _unreachable(error, repo)
    if isinstance(error, OSError):
        return _disk(error)
    if isinstance(error, ValueError | KeyError):  # what it answers is not what a hub answers
        return WorkError(f"{constants.ENDPOINT} does not answer as a hub does", "check HF_ENDPOINT and the proxy")
    return None


def _unreachable(error: Exception, repo: str) -> UserError:
    """Neither the hub nor, as the caller has looked, the cache has what is wanted."""
    if constants.HF_HUB_OFFLINE:
        return RequestError(
            f"{repo} is not wholly in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to fetch it",
            "unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE), or copy a cache that has it",
        )
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError | RevisionResolutionError) else error
    if isinstance(cause, HfHubHTTPError):
        return _answered(cause, repo, None)
    reason = (str(cause or error).strip() or type(error).__name__).splitlines()[0]
    return WorkError(
        f"{constants.ENDPOINT} cannot be reached: {reason}",
        f"check the network or HF_ENDPOINT; {_AGAIN}",
    )


def _answered(error: HfHubHTTPError, repo: str, revision: str | None) -> UserError:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return RequestError(
            f"access to {repo} is gated, and yours has not been granted",
            f"accept its terms on {constants.ENDPOINT}/{repo}, then give a token with --token or HF_TOKEN",
        )
    if isinstance(error, RevisionNotFoundError):
        return RequestError(f"{repo} has no revision {revision!r}", "give one of its branches, tags or commits")
    if isinstance(error, RepositoryNotFoundError | DisabledRepoError) or status in (401, 403):
        return RequestError(
            f"there is no repository {repo} on {constants.ENDPOINT}, or it is not open to you",
            "check the name; for a private one give a token with --token or HF_TOKEN",
        )
    if status == 404:
        return RequestError(f"{repo} lacks a file that its listing names", "give another --revision")
    return WorkError(f"{constants.ENDPOINT} answered {status} for {repo}", f"try again later; {_AGAIN}")


def _disk(error: OSError) -> UserError | None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WorkError(
            f"no space left on the disk of the cache {constants.HF_HUB_CACHE}",
            f"free some, or set HF_HOME to a larger disk; {_AGAIN}",
        )
    if error.errno is not None:
        reason = (error.strerror or str(error)).lower()
        return OutputError(f"the cache {constants.HF_HUB_CACHE} cannot be used: {reason}", "set HF_HOME to another one")
    first = str(error).strip().splitlines()[0]  # the client's own checks of sizes
    return WorkError(f"a file did not arrive whole: {first}", _AGAIN)
