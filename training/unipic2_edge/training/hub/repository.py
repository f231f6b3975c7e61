"""A repository on the hub at one commit: its listing, and its files fetched into the hub's local cache.

The client is huggingface_hub's: its cache, token, endpoint (HF_ENDPOINT), proxies and offline mode (HF_HUB_OFFLINE)
hold. Where the hub cannot be reached, the cache answers alone.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError, HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import tqdm

from ..errors import WorkError
from . import large
from .hashes import hash_in_cache, matches
from .large import LargeFiles
from .refusals import hub_errors


@dataclass(frozen=True)
class Listed:
    """A file as the hub lists it: its size in bytes, and its hash (SHA-256 of large files, git's of small ones)."""

    size: int | None = None
    hash: str | None = None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        name: OWNER/NAME.
        commit: 40 hexadecimal digits.
        files: all of its files by path.
        cached: the hub could not be reached, and the files are those that the cache knows.
        token: for private and gated repositories; without, HF_TOKEN or the login that is stored.
    """

    name: str
    commit: str
    files: dict[str, Listed]
    cached: bool
    token: str | None = field(repr=False)

    @classmethod
    def open(cls, name: str, revision: str | None = None, token: str | None = None) -> Repository:
        """Look a repository up.

        Raises:
            RequestError: there is none of that name or revision, no access, or offline and not in the cache.
            WorkError: the hub cannot be reached, and the cache does not know it.
        """
        with hub_errors(name, revision):
            commit = HfApi(token=token).resolve_revision(name, revision=revision).resolved
            try:
                entries = list(HfApi(token=token).list_repo_tree(name, recursive=True, revision=commit))
            except (httpx.TransportError, OfflineModeIsEnabled):
                return cls(name, commit, _known(name, commit), True, token)
            except HfHubHTTPError as error:
                if error.response.status_code < 500:
                    raise
                return cls(name, commit, _known(name, commit), True, token)
        return cls(name, commit, {e.path: _listed(e) for e in entries if isinstance(e, RepoFile)}, False, token)

    def fetch(self, paths: Collection[str], quiet: bool = False) -> Path:
        """Bring files into the cache; those that are there are not fetched again. Returns the snapshot's folder.

        What is cut goes on where it was: a connection by itself, a run that was stopped when it is started again.

        Raises:
            RequestError: no access, or offline and not all in the cache.
            WorkError: the hub cannot be reached, the disk is full or too small, a file did not arrive whole.
        """
        wanted = [_literal(path) for path in paths]
        options: dict[str, Any] = {"revision": self.commit, "allow_patterns": wanted, "token": self.token}
        bar = _Silent if quiet or not sys.stderr.isatty() else None
        with hub_errors(self.name, self.commit):
            if self.cached:
                return Path(snapshot_download(self.name, local_files_only=True, **options))
            self._check_space(paths)
            self._large(paths).fetch(quiet)
            return Path(snapshot_download(self.name, tqdm_class=bar, **options))

    def check(self, snapshot: Path, path: str) -> None:
        """Compare a fetched file with its hash; a damaged one is removed from the cache.

        Raises:
            WorkError: it is damaged.
        """
        file = snapshot / path
        expected = hash_in_cache(file) if self.cached else self.files[path].hash
        if expected is None or matches(file, expected):
            return
        file.resolve().unlink()
        file.unlink(missing_ok=True)
        raise WorkError(
            f"{path} of {self.name} does not have the hash that the hub names ({expected[:16]}…); "
            "it was removed from the cache",
            "run the same command again; if that does not help, check the disk and the proxy",
        )

    def _large(self, paths: Collection[str]) -> LargeFiles:
        sizes = {path: (self.files[path].hash or "", self.files[path].size or 0) for path in paths}
        chosen = {path: file for path, file in sizes.items() if len(file[0]) == 64 and file[1] >= large.FROM}
        return LargeFiles(self.name, self.commit, chosen, self.token)

    def _check_space(self, paths: Collection[str]) -> None:
        """Refuse before the first byte what cannot fit."""
        cache = Path(constants.HF_HUB_CACHE)
        needed = sum(self._missing(cache / f"models--{self.name.replace('/', '--')}", path) for path in paths)
        there = next(parent for parent in (cache, *cache.resolve().parents) if parent.exists())
        free = shutil.disk_usage(there).free
        if needed > free:
            raise WorkError(
                f"{self.name} takes {needed / 1e9:.1f} GB more in the cache {cache}, and {free / 1e9:.1f} GB are free",
                "free some space, or set HF_HOME to a larger disk",
            )

    def _missing(self, folder: Path, path: str) -> int:
        """How many bytes of a file are not in the cache."""
        listed = self.files[path]
        blob = folder / "blobs" / (listed.hash or "unknown")
        partial = blob.with_name(f"{blob.name}.partial")
        if blob.exists() or (folder / "snapshots" / self.commit / path).exists():
            return 0
        return (listed.size or 0) - (partial.stat().st_size if partial.exists() else 0)


class _Silent(tqdm):
    """A bar that shows nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]


def _listed(entry: RepoFile) -> Listed:
    return Listed(entry.size, entry.lfs.sha256 if entry.lfs is not None else entry.blob_id)


def _known(name: str, commit: str) -> dict[str, Listed]:
    """What the cache knows of a commit: its listing, or else the files that are there."""
    try:
        return {entry.path: Listed(entry.size) for entry in get_cached_repo_tree(name, revision=commit)}
    except CachedRepoTreeNotFoundError:
        folder = Path(snapshot_download(name, revision=commit, local_files_only=True))
        return {path.relative_to(folder).as_posix(): Listed() for path in folder.rglob("*") if path.is_file()}


def _literal(path: str) -> str:
    """A path as a pattern that fits it alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)
