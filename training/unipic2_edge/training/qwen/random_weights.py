"""A random Qwen2.5-VL written shard by shard: at 7 B, no more in memory than one shard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from ..metaquery.configs import MetaqueryConfig
from ..randomness import fill
from ..skeleton import without_memory
from .model import set_generation
from .sight import pixel_range

SHARD_BYTES = 1 << 30
#: Names in the class → names in published files.
_RENAMED = {"model.visual.": "visual.", "model.language_model.": "model."}


@dataclass(frozen=True)
class RandomQwen:
    """A whole Qwen2.5-VL folder to be written; without a seed everything but the weights."""

    config: MetaqueryConfig
    tokenizer: Any
    dtype: torch.dtype
    seed: int | None
    shard_bytes: int = SHARD_BYTES

    def save_pretrained(self, folder: Path) -> None:
        """Write configs, tokenizer, image processor and the shards with their index."""
        with without_memory(self.dtype):
            model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**self.config.qwen))
        set_generation(model, self.config.qwen)
        model.config.architectures = [type(model).__name__]
        model.config.dtype = self.dtype
        processor = Qwen2VLImageProcessorPil(size=pixel_range(*self.config.pixels))
        for part in (model.config, model.generation_config, self.tokenizer, processor):
            part.save_pretrained(folder)
        if self.seed is not None:
            self._write(model, folder, torch.Generator().manual_seed(self.seed))

    def _write(self, model: Any, folder: Path, generator: torch.Generator) -> None:
        shards = list(_shards(model, self.shard_bytes))
        places: dict[str, str] = {}
        for number, shard in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
            save_file(self._filled(shard, generator), folder / file, metadata={"format": "pt"})
            places |= {published_name(name): file for name in shard}
        if len(shards) > 1:
            size = sum(parameter.nbytes for parameter in model.parameters())
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
            text = json.dumps(index, indent=2) + "\n"
            (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")

    def _filled(self, shard: dict[str, torch.Size], generator: torch.Generator) -> dict[str, Tensor]:
        made = {}
        for name, shape in shard.items():
            tensor = torch.empty(shape, dtype=self.dtype)
            fill(name, tensor, generator)
            made[published_name(name)] = tensor
        return made


def published_name(name: str) -> str:
    """The name of a parameter in published files, and in those that transformers writes."""
    for here, there in _RENAMED.items():
        if name.startswith(here):
            return there + name.removeprefix(here)
    return name


def _shards(model: Any, limit: int) -> Iterator[dict[str, torch.Size]]:
    """Names and shapes of the parameters, in groups of at most `limit` bytes (or one larger parameter)."""
    group: dict[str, torch.Size] = {}
    size = 0
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if group and size + parameter.nbytes > limit:
            yield group
            group, size = {}, 0
        group[name] = parameter.shape
        size += parameter.nbytes
    yield group
