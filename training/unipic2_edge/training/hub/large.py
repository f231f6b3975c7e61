"""Large files brought into the hub's cache so that a run that was stopped goes on inside them.

huggingface_hub throws away the file it was in when its process ends, up to 5 GB of a published checkpoint. Here what
has arrived stays beside the cache's blobs, as `<sha256>.partial`, and becomes the blob when it is whole; the client
then finds it there. Its bytes come through the client's own `http_get`, which goes on after a cut by itself.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from tqdm import tqdm

FROM = 1 << 26  # bytes; below, starting again costs little
_CONNECTIONS = 4


class LargeFiles:
    """The large files of a repository at one commit.

    Args:
        repo: OWNER/NAME.
        commit: 40 hexadecimal digits.
        files: path → (SHA-256, bytes).
        token: as for the client.
    """

    def __init__(self, repo: str, commit: str, files: Mapping[str, tuple[str, int]], token: str | None) -> None:
        cache = Path(constants.HF_HUB_CACHE)
        name = repo_folder_name(repo_id=repo, repo_type="model")
        self._blobs, self._locks = cache / name / "blobs", cache / ".locks" / name
        self._repo, self._commit, self._token = repo, commit, token
        self._files = {path: file for path, file in files.items() if not (self._blobs / file[0]).exists()}
        self._stop = threading.Event()

    def fetch(self, quiet: bool) -> None:
        """Bring them into the cache; what has arrived stays when this ends early.

        Raises:
            Exception: whatever the client raises.
        """
        if not self._files:
            return
        for folder in (self._blobs, self._locks):
            folder.mkdir(parents=True, exist_ok=True)
        total, silent = sum(size for _, size in self._files.values()), quiet or not sys.stderr.isatty()
        with (
            tqdm(total=total, unit="B", unit_scale=True, desc=self._repo, disable=silent, leave=False) as bar,
            ThreadPoolExecutor(_CONNECTIONS) as pool,
        ):
            running = [pool.submit(self._bring, path, *file, bar) for path, file in self._files.items()]
            try:
                self._wait(running)
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)

    @staticmethod
    def _wait(running: list[Future[None]]) -> None:
        wait(running, return_when=FIRST_EXCEPTION)
        for future in running:
            if future.done():
                future.result()

    def _bring(self, path: str, sha256: str, size: int, bar: Any) -> None:
        """Fetch one file, from where it was left, under the lock that the client takes for the same blob."""
        blob, partial = self._blobs / sha256, self._blobs / f"{sha256}.partial"
        with FileLock(self._locks / f"{sha256}.lock"):
            if blob.exists():
                return
            with partial.open("ab") as stream:
                if stream.tell() > size:
                    stream.truncate(0)
                done = stream.tell()
                bar.update(done)
                http_get(
                    hf_hub_url(self._repo, path, revision=self._commit),
                    stream,
                    resume_size=done,
                    headers=build_hf_headers(token=self._token),
                    expected_size=size,
                    tqdm_class=_counter(bar, self._stop),
                )
            partial.replace(blob)


class _StoppedError(Exception):
    """Another file failed, or the user ended the run."""


def _counter(bar: Any, stop: threading.Event) -> Any:
    """A class that the client makes its bar of a file from: it counts into the one bar of all, and ends early."""

    class Counter:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __enter__(self) -> Counter:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: int) -> None:
            if stop.is_set():
                raise _StoppedError
            bar.update(count)

    return Counter
