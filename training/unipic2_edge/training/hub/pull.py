"""A checkpoint folder from the hub: files chosen, fetched into the cache, checked, and put in place at once.

Weights are hard-linked from the cache where both stand on one file system, so they take their space once; they are
copied elsewhere, and on request. Configs and tokenizers are always copied: people edit those, and a change must not
reach into the cache. Nothing of ours writes into a weights file that is there.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..errors import CheckpointError, OutputError, RequestError
from ..folders import publishing
from ..layout import QWEN
from .layouts import Selection, choose_checkpoint, choose_qwen
from .repository import Repository

DEFAULT_QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"


@dataclass(frozen=True)
class PullOptions:
    """How to pull.

    Attributes:
        revision: branch, tag or commit; without, the default branch.
        subfolder: of the repository; without, its top or the only one that holds a checkpoint.
        qwen: the repository of a MetaQuery checkpoint's language model.
        qwen_revision: of that one.
        token: for gated and private repositories; without, HF_TOKEN or the login that is stored.
        copy: copy the weights instead of linking them.
        quiet: no progress bars.
    """

    revision: str | None = None
    subfolder: str | None = None
    qwen: str = DEFAULT_QWEN
    qwen_revision: str | None = None
    token: str | None = None
    copy: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Pulled:
    """A checkpoint that is there: its folder, and where it is from.

    Attributes:
        folder: to give to other commands.
        variant: "kontext" or "metaquery".
        commits: repository → commit.
        files: how many it has.
        size: of all of them, in bytes.
        linked: how many of them share their bytes with the cache.
    """

    folder: Path
    variant: str
    commits: dict[str, str]
    files: int
    size: int
    linked: int


@dataclass(frozen=True)
class _Source:
    """What is taken from one repository."""

    repository: Repository
    selection: Selection

    def fetch(self, quiet: bool) -> Path:
        """Fetch and check the files; returns the snapshot's folder."""
        snapshot = self.repository.fetch(self.selection.files, quiet)
        silent = quiet or not sys.stderr.isatty()
        for path in tqdm(sorted(self.selection.files), desc="checking", unit="file", disable=silent, leave=False):
            self.repository.check(snapshot, path)
        for path in self.selection.files:
            if path.endswith(".json") and ".safetensors.index" in path:
                _check_shards(self.repository.name, snapshot / path)
        return snapshot


def pull(name: str, checkpoint: Path | None, options: PullOptions | None = None) -> Pulled:
    """Fetch a Kontext or MetaQuery checkpoint.

    Args:
        name: OWNER/NAME on the hub.
        checkpoint: the folder to make; None uses the hub's cache in place.
        options: see there.

    Raises:
        RequestError: no such repository or revision, no access, or what it holds cannot be used in place.
        CheckpointError: it holds neither layout, or lacks a file.
        OutputError: `checkpoint` exists and is not empty, or cannot be written.
        WorkError: the hub cannot be reached, a file is damaged, the disk is full.
    """
    options = options or PullOptions()
    if checkpoint is not None and checkpoint.exists() and (not checkpoint.is_dir() or any(checkpoint.iterdir())):
        raise OutputError(
            f"{checkpoint} exists already and is not empty", "give another folder, or remove this one first"
        )
    repository = Repository.open(name, options.revision, options.token)
    sources = [_Source(repository, choose_checkpoint(name, repository.files, options.subfolder))]
    first = sources[0].selection
    if checkpoint is None:
        _check_in_place(name, first)
    elif first.variant == "metaquery" and not first.has_qwen:
        qwen = Repository.open(options.qwen, options.qwen_revision, options.token)
        sources.append(_Source(qwen, choose_qwen(options.qwen, qwen.files)))
    snapshots = [source.fetch(options.quiet) for source in sources]
    commits = {source.repository.name: source.repository.commit for source in sources}
    if checkpoint is None:
        used = [snapshots[0] / path for path in first.files]
        size = sum(path.stat().st_size for path in used)
        return Pulled(snapshots[0] / first.folder, first.variant, commits, len(used), size, len(used))
    linked = _place(checkpoint, sources, snapshots, options.copy)
    made = [path for path in checkpoint.rglob("*") if path.is_file()]
    return Pulled(checkpoint, first.variant, commits, len(made), sum(path.stat().st_size for path in made), linked)


def _check_in_place(name: str, selection: Selection) -> None:
    """Refuse to use a snapshot in place that is no checkpoint as it stands.

    Raises:
        RequestError: it needs a folder of its own.
    """
    reason = None
    if selection.variant == "metaquery" and not selection.has_qwen:
        reason = f"its language model, {QWEN}/, comes from another repository"
    elif selection.renames:
        reason = "it has variants of its weights only, under names that are not read"
    elif selection.unconverted():
        reason = f"{selection.unconverted()[0]}/ has no tokenizer.json, which is made from what it has"
    if reason is not None:
        raise RequestError(
            f"{name} cannot be used where the cache keeps it: {reason}",
            f"give a folder to make: unipic2-edge pull {name} CHECKPOINT",
        )


def _place(checkpoint: Path, sources: list[_Source], snapshots: list[Path], copy: bool) -> int:
    """Make the checkpoint's folder, whole or not at all; returns how many files are hard links."""
    linked = 0
    with publishing(checkpoint) as temporary:
        for source, snapshot in zip(sources, snapshots, strict=True):
            for path, target in source.selection.files.items():
                place = temporary / target
                place.parent.mkdir(parents=True, exist_ok=True)
                linked += _bring((snapshot / path).resolve(), place, copy)
            for folder in source.selection.unconverted():
                _convert_tokenizer(temporary / folder)
    return linked


def _bring(file: Path, place: Path, copy: bool) -> bool:
    """Put one file in place; whether it is a link."""
    if not copy and place.suffix == ".safetensors":
        try:
            os.link(file, place)
        except OSError:  # another file system, or one without links, or a cache of another user
            pass
        else:
            return True
    shutil.copyfile(file, place)
    return False


def _convert_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, as transformers makes it from a vocabulary and its merges.

    Raises:
        CheckpointError: it cannot be made.
    """
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    except Exception as error:  # of many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{folder.name} cannot be converted: {reason}", "name another repository") from error
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder.name} has no form of a tokenizer.json", "name another repository")


def _check_shards(name: str, index: Path) -> None:
    """Refuse an index that names shards which are not there.

    Raises:
        CheckpointError: it does, or cannot be read.
    """
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index.name} of {name} cannot be read", "name another revision") from error
    missing = sorted(shard for shard in shards if not (index.parent / str(shard)).is_file())
    if missing:
        raise CheckpointError(f"{name} lacks its shard {missing[0]}", "name another revision, or fetch it online")
