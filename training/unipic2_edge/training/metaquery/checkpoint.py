"""MetaQuery checkpoints loaded and written: the conditioner, and the Qwen2.5-VL folder with tokenizer and processor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..layout import METAQUERY, QWEN, CheckpointFolder
from ..qwen.chat import Chat
from ..qwen.random_weights import published_name
from ..qwen.sight import Sight
from ..skeleton import Skeleton, without_memory
from .conditioner import MetaQueryConditioner

_WEIGHTS = "model.safetensors"


class MetaqueryCheckpoint(Checkpoint):
    """A checkpoint folder of the variant `metaquery` whose parts can be loaded."""

    def load_meta_conditioner(self, dtype: torch.dtype = torch.float32) -> MetaQueryConditioner:
        """Queries, connector and projectors, in evaluation mode.

        Raises:
            CheckpointError: the part is missing, damaged or not what its config says.
        """
        files = self.weights("conditioner")
        with self._loading("conditioner"):
            model: MetaQueryConditioner = self._new_conditioner()
            tensors = {name: tensor for path in files for name, tensor in load_file(path).items()}
            model.load_state_dict(tensors)
        if dtype != torch.float32:  # to cast to the same gives a warning
            model.to(dtype)
        model.eval()
        return model

    def load_qwen(self, dtype: torch.dtype = torch.float32, attention: str = "eager") -> Any:
        """The whole Qwen2.5-VL, in evaluation mode.

        Args:
            dtype: of every weight.
            attention: transformers' name of its implementation.

        Raises:
            CheckpointError: the part is missing, damaged or not what its config says.
        """
        return self._load(Qwen2_5_VLForConditionalGeneration, QWEN, dtype=dtype, attn_implementation=attention)

    def conditioner_skeleton(self, dtype: torch.dtype = torch.float32) -> Skeleton:
        """The conditioner as `load_meta_conditioner` gives it, its weights still on disk.

        Raises:
            CheckpointError: the part is missing, damaged or not what its config says.
        """
        files = self.weights("conditioner")
        with self._loading("conditioner"), without_memory(dtype):
            model = self._new_conditioner()
        return Skeleton(model, files, f"conditioner of {self.folder}")

    def qwen_skeleton(self, dtype: torch.dtype = torch.float32) -> Skeleton:
        """The whole Qwen2.5-VL, its weights still on disk, under published or transformers' names.

        Raises:
            CheckpointError: the part is missing, damaged or not what its config says.
        """
        files = self.weights(QWEN)
        with self._loading(QWEN), without_memory(dtype):
            config = self.qwen_config()
            config._attn_implementation = "eager"
            model = Qwen2_5_VLForConditionalGeneration(config)
        model.tie_weights()
        return Skeleton(model, files, f"{QWEN} of {self.folder}", stored_as=published_name)

    def qwen_config(self) -> Any:
        """The language model's config, transformers' own class.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        with self._loading(QWEN):
            return Qwen2_5_VLConfig.from_pretrained(self.folder / QWEN)

    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: what `generate` would stop at.

        Raises:
            CheckpointError: a config is missing or damaged.
        """
        with self._loading(QWEN):
            settings = GenerationConfig.from_pretrained(self.folder / QWEN)
            ends = settings.eos_token_id
            return tuple(ends) if isinstance(ends, list) else (int(ends),)

    def _new_conditioner(self) -> MetaQueryConditioner:
        config = self.config("conditioner")
        made: MetaQueryConditioner = MetaQueryConditioner(
            **{name: config[name] for name in _conditioner_fields(config)}
        )
        return made

    def chat(self) -> Chat:
        """The tokenizer, writing conversations.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        folder = self.folder / QWEN
        if not (folder / "tokenizer.json").is_file():
            raise CheckpointError(f"{folder} lacks tokenizer.json", "fetch or make this part again")
        with self._loading(QWEN):
            return Chat(AutoTokenizer.from_pretrained(folder))

    def sight(self) -> Sight:
        """The image processor, transformers' Pillow form whatever form the folder names.

        Raises:
            CheckpointError: its config is missing or damaged.
        """
        path = self.folder / QWEN / "preprocessor_config.json"
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read", "fetch or make this part again") from error
        kept = {name: value for name, value in content.items() if not name.endswith("_type")}
        with self._loading(QWEN):
            return Sight(Qwen2VLImageProcessorPil(**kept))


def open_checkpoint(folder: Path, partial: bool = False) -> Checkpoint:
    """A checkpoint of either variant, by what stands in its folder.

    Raises:
        CheckpointError: see `CheckpointFolder.open`.
    """
    kind = MetaqueryCheckpoint if CheckpointFolder(folder).layout is METAQUERY else Checkpoint
    return kind.open(folder, partial)


def _conditioner_fields(config: dict[str, Any]) -> list[str]:
    return [
        name for name in config if not name.startswith("_") and name not in ("architectures", "torch_dtype", "dtype")
    ]


@dataclass(frozen=True)
class ConditionerPart:
    """A conditioner to be saved as published: config.json and model.safetensors."""

    model: MetaQueryConditioner

    def save_pretrained(self, folder: Path) -> None:
        """Write both files."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {name: value for name, value in dict(self.model.config).items() if not name.startswith("_")}
        text = json.dumps({"architectures": [type(self.model).__name__]} | config, indent=2)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        tensors = {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        if not any(tensor.is_meta for tensor in tensors.values()):
            save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})


@dataclass(frozen=True)
class QwenPart:
    """A language model with its tokenizer and image processor, to be saved in one folder."""

    model: Any
    tokenizer: Any
    processor: Qwen2VLImageProcessorPil

    def save_pretrained(self, folder: Path) -> None:
        """Write everything that transformers needs to open the folder."""
        for part in (self.model, self.tokenizer, self.processor):
            part.save_pretrained(folder)
