"""Checkpoints opened and written: a folder in the published layout, part by part, as torch modules."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from diffusers.models.embeddings import get_1d_sincos_pos_embed_from_grid
from safetensors import safe_open
from transformers import AutoTokenizer, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from .conditioning import TextConditioner, TokenIds
from .errors import CheckpointError
from .folders import publishing
from .layout import KONTEXT, METAQUERY, MODELS, TOKENIZERS, CheckpointFolder, Layout
from .lora import Lora, merged
from .skeleton import Skeleton, without_memory
from .transformer import KontextTransformer

# The libraries' own bars would run through ours.
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

_CLASSES: dict[str, tuple[str, str]] = {
    "transformer": ("diffusers", "SD3Transformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_3": ("transformers", "T5EncoderModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
    "tokenizer_3": ("transformers", "T5TokenizerFast"),
}


_POSITIONS = "pos_embed.pos_embed"


class TextTokenizers:
    """The three tokenizers of a checkpoint: texts → padded ids of fixed lengths."""

    def __init__(self, folder: Path) -> None:
        self._tokenizers = [AutoTokenizer.from_pretrained(folder / name) for name in TOKENIZERS]
        self.lengths = [_length(tokenizer.model_max_length) for tokenizer in self._tokenizers]
        self.pad_ids = [int(tokenizer.pad_token_id) for tokenizer in self._tokenizers]

    def __call__(self, texts: list[str]) -> TokenIds:
        """Ids [B, length] of each tokenizer; longer texts are cut, as diffusers does."""
        first, second, third = (
            tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
            for tokenizer, length in zip(self._tokenizers, self.lengths, strict=True)
        )
        return first, second, third


def _length(model_max_length: int) -> int:
    """SD3 gives T5 256 tokens, whatever its tokenizer would take."""
    return min(model_max_length, 256)


@dataclass(frozen=True)
class Checkpoint(CheckpointFolder):
    """A validated checkpoint folder whose parts can be loaded; its denoiser is read with LoRAs merged into it."""

    loras: tuple[Lora, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name, and those of the LoRAs with their scales."""
        return " + ".join([self.folder.resolve().name, *(f"{lora.name}:{lora.scale:g}" for lora in self.loras)])

    def with_loras(self, asked: list[tuple[Path, float]]) -> Checkpoint:
        """The same checkpoint with LoRAs, each with its scale, merged into the denoiser; they add up.

        Raises:
            CheckpointError: there is no denoiser, or it is damaged.
            RequestError: a LoRA is missing, damaged or of another model.
        """
        shapes = {}
        for path in self.weights("transformer") if asked else ():
            with self._loading("transformer"), safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        return replace(self, loras=tuple(Lora.open(path, scale, shapes) for path, scale in asked))

    def sha256(self) -> str:
        """The folder's hash; with LoRAs one over it, their bytes and their scales."""
        if not self.loras:
            return super().sha256()
        parts = [super().sha256(), *(f"{lora.sha256}:{lora.scale!r}" for lora in self.loras)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def position_table(self) -> torch.Tensor:
        """The stored position embeddings [max, max, D], read without the rest of the transformer.

        Published files hold them as a buffer; where they are absent, diffusers makes them from the config, and
        so does this.

        Raises:
            CheckpointError: a file of the transformer is damaged.
        """
        config = self.config("transformer")
        size = config["pos_embed_max_size"]
        for path in self.weights("transformer") if self.has("transformer") else ():
            with self._loading("transformer"), safe_open(path, framework="pt") as tensors:
                if _POSITIONS in tensors.keys():  # noqa: SIM118 - not a dict
                    table: torch.Tensor = tensors.get_tensor(_POSITIONS)
                    return table.reshape(size, size, -1)
        return position_table(config)

    def load_transformer(self, dtype: torch.dtype = torch.float32) -> KontextTransformer:
        """The denoiser, in evaluation mode."""
        first = torch.float32 if self.loras else dtype
        transformer: KontextTransformer = self._load(
            KontextTransformer, "transformer", may_lack=(_POSITIONS,), torch_dtype=first
        )
        if self.loras:
            for name, parameter in transformer.named_parameters():
                parameter.data = merged(self.loras, name, parameter.data)
            transformer.to(dtype)
        return transformer

    def load_vae(self, dtype: torch.dtype = torch.float32) -> AutoencoderKL:
        """The autoencoder, in evaluation mode."""
        return self._load(AutoencoderKL, "vae", torch_dtype=dtype)

    def load_text_encoder(self, part: str, dtype: torch.dtype = torch.float32) -> Any:
        """One of the three text encoders, in evaluation mode."""
        kind = T5EncoderModel if part == "text_encoder_3" else CLIPTextModelWithProjection
        return self._load(kind, part, dtype=dtype)

    def load_conditioner(self, dtype: torch.dtype = torch.float32) -> TextConditioner:
        """The three text encoders as one module."""
        return TextConditioner(*(self.load_text_encoder(part, dtype) for part in MODELS[2:])).eval()

    def transformer_skeleton(self, dtype: torch.dtype = torch.float32) -> Skeleton:
        """The denoiser as `load_transformer` gives it, its weights still on disk.

        Raises:
            CheckpointError: the part is missing, damaged or not what its config says.
        """
        with self._loading("transformer"), without_memory(dtype):
            model = KontextTransformer.from_config(self.config("transformer"))
        change = partial(merged, self.loras) if self.loras else None
        return Skeleton(model, self.weights("transformer"), f"transformer of {self.folder}", change)

    def t5_skeleton(self, dtype: torch.dtype = torch.float32) -> Skeleton:
        """The third text encoder, its weights still on disk; all of them in `dtype`.

        Raises:
            CheckpointError: the part is missing, damaged or not what its config says.
        """
        with self._loading("text_encoder_3"), without_memory(dtype):
            model = T5EncoderModel(T5Config(**self.config("text_encoder_3")))
        model.tie_weights()
        return Skeleton(model, self.weights("text_encoder_3"), f"text_encoder_3 of {self.folder}")

    def load_scheduler(self) -> FlowMatchEulerDiscreteScheduler:
        """The flow-matching scheduler."""
        return FlowMatchEulerDiscreteScheduler.from_pretrained(self.path("scheduler"))

    def tokenizers(self) -> TextTokenizers:
        """The three tokenizers as one callable."""
        for part in TOKENIZERS:
            self.path(part)
        return TextTokenizers(self.folder)

    def _load(self, kind: Any, part: str, may_lack: tuple[str, ...] = (), **options: Any) -> Any:
        path = self.path(part)
        with self._loading(part):
            model, report = kind.from_pretrained(path, use_safetensors=True, output_loading_info=True, **options)
        # The libraries fill missing weights with random numbers and go on.
        missing = sorted(set(report["missing_keys"]) - set(may_lack))
        if missing:
            raise CheckpointError(
                f"{part} of {self.folder} lacks {len(missing)} of its tensors, {missing[0]} the first",
                "fetch or make this part again",
            )
        if _POSITIONS in report["missing_keys"]:
            model.pos_embed.pos_embed = position_table(self.config(part)).flatten(0, 1)[None].to(model.dtype)
        return model.eval()

    @contextmanager
    def _loading(self, part: str) -> Iterator[None]:
        """Turn what the libraries raise for damaged files and configs, of many kinds, into a `CheckpointError`."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"{part} of {self.folder} cannot be loaded: {_first_line(error)}",
                "fetch or make this part again",
            ) from error


def position_table(config: dict[str, Any]) -> torch.Tensor:
    """diffusers' sine-cosine position embeddings [max, max, D] for a transformer config, in float32.

    The first half of the channels depends on x alone and the second on y: each is computed once and spread, where
    `get_2d_sincos_pos_embed` holds the whole table in float64, several times.
    """
    size = config["pos_embed_max_size"]
    half = config["num_attention_heads"] * config["attention_head_dim"] // 2
    base = config["sample_size"] // config["patch_size"]
    places = torch.arange(size, dtype=torch.float32) / (size / base)
    line: torch.Tensor = get_1d_sincos_pos_embed_from_grid(half, places).float()  # [max, D/2]
    table = torch.empty(size, size, 2 * half)
    table[..., :half], table[..., half:] = line[None], line[:, None]
    return table


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _forget_origin(config: Path) -> None:
    """Without the folder that diffusers read a part from: it is of one machine, and tells of it."""
    if config.is_file():
        content: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
        if content.pop("_name_or_path", None) is not None:
            _write_json(config, content)


def save_checkpoint(
    folder: Path,
    base: Checkpoint | None = None,
    defaults: dict[str, dict[str, Any]] | None = None,
    replace: bool = False,
    **parts: Any,
) -> Checkpoint:
    """Write a checkpoint: `parts` by name (anything with `save_pretrained`), the rest copied from `base`.

    Its variant is MetaQuery's if it gets one of that variant's own parts, else that of `base`. The folder appears
    whole or not at all; with `replace` it may take the place of one that is there.

    Raises:
        OutputError: `folder` exists and is not empty, or cannot be written.
        WorkError: the disk is full.
    """
    with publishing(folder, replace) as temporary:
        layout = _layout(base, set(parts))
        for part in layout.parts:
            if part in parts:
                parts[part].save_pretrained(temporary / part)
                _forget_origin(temporary / part / "config.json")
            elif base is not None and base.has(part):
                shutil.copytree(base.path(part), temporary / part)
        if layout is KONTEXT:  # the published MetaQuery has none: diffusers knows no such pipeline
            made = [part for part in layout.parts if Checkpoint(temporary).has(part)]
            index = {"_class_name": "StableDiffusion3Pipeline"} | {part: list(_CLASSES[part]) for part in made}
            _write_json(temporary / "model_index.json", index)
        kept = defaults if defaults is not None else base.defaults() if base is not None else {}
        if kept:
            _write_json(temporary / "defaults.json", kept)
    return Checkpoint.open(folder, partial=True)


def _layout(base: Checkpoint | None, parts: set[str]) -> Layout:
    if parts.intersection(METAQUERY.parts).difference(KONTEXT.parts):
        return METAQUERY
    return base.layout if base is not None else KONTEXT


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
