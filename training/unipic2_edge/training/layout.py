"""A checkpoint on disk: the two published folder layouts of UniPic2. No torch here.

    kontext     transformer/ vae/ scheduler/ text_encoder/ text_encoder_2/ text_encoder_3/
                tokenizer/ tokenizer_2/ tokenizer_3/ model_index.json
    metaquery   transformer/ vae/ scheduler/ conditioner/ qwen2_5_vl/

Safetensors only. `qwen2_5_vl/` is a whole Qwen2.5-VL as transformers saves it: model, tokenizer, chat template, image
processor. `defaults.json` beside them is ours and optional: what each task uses when the caller says nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError

if TYPE_CHECKING:
    from typing_extensions import Self

MODELS = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
PARTS = (*MODELS, "scheduler", *TOKENIZERS)
QWEN = "qwen2_5_vl"


@dataclass(frozen=True)
class Layout:
    """The parts of one variant: its models by their weights, and the folders of one small file."""

    variant: str
    models: tuple[str, ...]
    parts: tuple[str, ...]


KONTEXT = Layout("kontext", MODELS, PARTS)
METAQUERY = Layout(
    "metaquery",
    ("transformer", "vae", "conditioner", QWEN),
    ("transformer", "vae", "conditioner", QWEN, "scheduler"),
)
LAYOUTS = {layout.variant: layout for layout in (KONTEXT, METAQUERY)}

_WEIGHED = {*KONTEXT.models, *METAQUERY.models}
_STEMS = dict.fromkeys(_WEIGHED, "model") | dict.fromkeys(("transformer", "vae"), "diffusion_pytorch_model")
_FILES = {"scheduler": "scheduler_config.json"} | dict.fromkeys(TOKENIZERS, "tokenizer.json")
_HASHED = (".json", ".safetensors", ".model", ".txt", ".jinja")
_CHUNK = 1 << 25  # bytes


@dataclass(frozen=True)
class CheckpointFolder:
    """A validated checkpoint folder: its parts, their configs, its hash; `checkpoint.Checkpoint` also loads them."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, partial: bool = False) -> Self:
        """Check the layout (not the tensors) of a folder.

        Args:
            folder: the checkpoint.
            partial: parts may be missing; asking for a missing one raises then.

        Raises:
            CheckpointError: no such folder, or a part is missing or damaged.
        """
        if not folder.is_dir():
            raise CheckpointError(f"there is no checkpoint folder {folder}", "give a folder in the diffusers layout")
        checkpoint = cls(folder)
        layout = checkpoint.layout
        present = [part for part in layout.parts if checkpoint.has(part)]
        if not present:
            raise CheckpointError(
                f"{folder} is not a checkpoint: it has none of {', '.join(layout.models)}",
                "give a folder in the diffusers layout",
            )
        missing = [part for part in layout.parts if part not in present]
        if missing and not partial:
            raise CheckpointError(
                f"{folder} lacks {', '.join(missing)}",
                "complete the checkpoint, or choose components that are there",
            )
        return checkpoint

    @property
    def layout(self) -> Layout:
        """MetaQuery's where there is a conditioner or a language model (or a config of one), else Kontext's."""
        marks = ("conditioner", QWEN)
        return METAQUERY if any((self.folder / mark / "config.json").is_file() for mark in marks) else KONTEXT

    @property
    def variant(self) -> str:
        """`kontext` or `metaquery`."""
        return self.layout.variant

    def path(self, part: str) -> Path:
        """The folder of a part.

        Raises:
            CheckpointError: the checkpoint lacks it.
        """
        if not self.has(part):
            raise CheckpointError(
                f"{self.folder} lacks {part}", "complete the checkpoint, or choose components that are there"
            )
        return self.folder / part

    def has(self, part: str) -> bool:
        """Whether a part is there: a model by its weights, the others by their one file."""
        if part in _WEIGHED:
            return any((self.folder / part).glob("*.safetensors"))
        return (self.folder / part / _FILES[part]).is_file()

    def weights(self, part: str) -> tuple[Path, ...]:
        """The safetensors files of a model part: the one file, or the shards that its index names.

        Variants beside them (`*.fp16.safetensors`) are not looked at, as the two libraries do not.

        Raises:
            CheckpointError: the part is missing, its index is damaged, or a shard is not there.
        """
        folder, stem = self.path(part), _STEMS[part]
        if (folder / f"{stem}.safetensors").is_file():
            return (folder / f"{stem}.safetensors",)
        index = folder / f"{stem}.safetensors.index.json"
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{folder} has neither {stem}.safetensors nor a readable {index.name}", "fetch or make this part again"
            ) from error
        missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder} lacks its shard {missing[0]}", "fetch or make this part again")
        return tuple(folder / name for name in names)

    def config(self, part: str) -> dict[str, Any]:
        """The config of a model part, as stored; it may be there without the weights.

        Raises:
            CheckpointError: the config is missing or damaged.
        """
        path = self.folder / part / "config.json"
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}", "complete the checkpoint") from error
        except ValueError as error:
            raise CheckpointError(f"{path} is not JSON: {error}", "fetch or make this part again") from error
        return content

    def defaults(self) -> dict[str, dict[str, Any]]:
        """The per-task defaults of `defaults.json`, or nothing."""
        path = self.folder / "defaults.json"
        if not path.is_file():
            return {}
        try:
            content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is not JSON: {error}", "correct or remove the file") from error
        return content

    def sha256(self) -> str:
        """One hash over the names and bytes of every weight, config and tokenizer file, in sorted order."""
        return self._sha256([*self._files(self.layout.parts), self.folder / "defaults.json"])

    def parts_sha256(self, parts: Sequence[str]) -> str:
        """The same over these parts alone."""
        return self._sha256(self._files(parts))

    def _sha256(self, paths: list[Path]) -> str:
        digest = hashlib.sha256()
        # Large chunks, so that beside a busy thread the interpreter's lock is asked for rarely.
        buffer = memoryview(bytearray(_CHUNK))
        for path in _hashed(paths):
            digest.update(f"{path.relative_to(self.folder).as_posix()}\0{path.stat().st_size}\0".encode())
            with path.open("rb", buffering=0) as stream:
                while count := stream.readinto(buffer):
                    digest.update(buffer[:count])
        return digest.hexdigest()

    def _files(self, parts: Sequence[str]) -> list[Path]:
        return [path for part in parts for path in sorted((self.folder / part).glob("*"))]


def _hashed(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.suffix in _HASHED and path.is_file()]
