"""A LoRA of the denoiser, merged into its weights as they are read: W + scale·(alpha/r)·B·A (arXiv 2106.09685).

Two formats, as peft and diffusers save them:

- peft: `base_model.model.LAYER.lora_A.weight`, with `adapter_config.json` beside the file or a folder of both;
- diffusers: `transformer.LAYER.lora_A.weight` or `….lora.down.weight`, `LAYER.alpha` optional, settings optionally in
  the file's own metadata. Without any, alpha is the rank.

The file is read tensor by tensor: a merge holds one layer's factors and nothing else of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .errors import RequestError

_PEFT_FILE = "adapter_model.safetensors"
_PEFT, _DIFFUSERS = "base_model.model.", "transformer."
_FACTOR = re.compile(r"(?P<layer>.+?)(?:\.lora_|\.lora\.|_lora\.)(?P<side>A|B|down|up)(?:\.default)?\.weight")
_ALPHA = re.compile(r"(?P<layer>.+?)(?:(?:\.lora_|\.lora\.|_lora\.)(?:A|B|down|up)\.weight)?\.alpha")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_ASK = "give a LoRA in peft's or diffusers' format, trained on this model's denoiser"

#: Settings of peft that change the formula; what they must be, to be merged here.
_PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
}


@dataclass(frozen=True)
class Factors:
    """One layer's names in the file, and its own alpha where the file has one."""

    down: str  # A, [r, in]
    up: str  # B, [out, r]
    alpha: float | None = None


@dataclass(frozen=True)
class Lora:
    """A LoRA that fits a model.

    Attributes:
        path: the safetensors file.
        scale: what the change is multiplied with.
        sha256: over the file, and over the settings that were read from beside it.
        layers: name of a parameter of the model → the change's factors.
        settings: of peft; alphas and their patterns.
    """

    path: Path
    scale: float
    sha256: str
    layers: Mapping[str, Factors]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, scale: float, shapes: Mapping[str, tuple[int, ...]]) -> Lora:
        """Read a LoRA's names, and check all of it but the merge.

        Args:
            path: a safetensors file, or a folder that peft saved.
            scale: what the change is multiplied with.
            shapes: of the model's parameters, by name.

        Raises:
            RequestError: no such file, pickled, no LoRA in a known format, of another model, or not finite.
        """
        if not math.isfinite(scale):
            raise RequestError(f"{scale} is no scale of a LoRA", "give a finite number, as in style.safetensors:0.8")
        file = _file(path)
        with _reading(file) as tensors:
            prefix = _prefix(file, tensors.keys())
            settings = _settings(file, prefix, tensors.metadata() or {})
            layers = _layers(file, tensors, prefix, shapes)
            _check_values(file, tensors)
        return cls(file, scale, _sha256(file, settings), layers, settings)

    @property
    def name(self) -> str:
        """The file's name without its ending; peft calls every file alike, so there it is the folder's."""
        return self.path.resolve().parent.name if self.path.name == _PEFT_FILE else self.path.stem

    def add_to(self, whole: Tensor, name: str) -> None:
        """Add the change of one of `layers` to its parameter in place, float32 and contiguous.

        Raises:
            RequestError: the file can no longer be read.
        """
        factors = self.layers[name]
        with _reading(self.path) as tensors:
            down: Tensor = tensors.get_tensor(factors.down).float().flatten(1)  # [r, in]
            up: Tensor = tensors.get_tensor(factors.up).float().flatten(1)  # [out, r]
        strength = self.scale * self._strength(name.removesuffix(".weight"), factors, len(down))
        whole.view(len(whole), -1).addmm_(up, down, alpha=strength)

    def _strength(self, layer: str, factors: Factors, rank: int) -> float:
        """alpha/r, or alpha/√r where peft's settings say so (arXiv 2312.03732)."""
        alpha = factors.alpha
        if alpha is None:
            patterns: Mapping[str, float] = self.settings.get("alpha_pattern") or {}
            fitting = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", layer))
            alpha = next(fitting, self.settings.get("lora_alpha", rank))
        return float(alpha) / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)


def parse_lora(text: str) -> tuple[Path, float]:
    """FILE[:SCALE]; a colon in the file's own name is no scale.

    Raises:
        RequestError: the scale is no number.
    """
    head, colon, tail = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), 1.0
    try:
        return Path(head), float(tail)
    except ValueError:
        if Path(head).exists():
            raise RequestError(
                f"{tail!r} is no scale of a LoRA", "give a number, as in style.safetensors:0.8"
            ) from None
        return Path(text), 1.0


def merged(loras: tuple[Lora, ...], name: str, stored: Tensor) -> Tensor:
    """A parameter with every LoRA's change added in float32; as it is where none of them changes it."""
    changing = [lora for lora in loras if name in lora.layers]
    if not changing:
        return stored
    whole = stored.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    for lora in changing:
        lora.add_to(whole, name)
    return whole


def _file(path: Path) -> Path:
    file = path / _PEFT_FILE if path.is_dir() else path
    if path.suffix in _PICKLED or (path.is_dir() and not file.is_file() and any(path.glob("*.bin"))):
        raise RequestError(
            f"{path} is pickled, which can run code when it is opened", "give the LoRA as a safetensors file"
        )
    if not file.is_file():
        raise RequestError(f"there is no LoRA {file}", "give a safetensors file, or a folder that peft saved")
    return file


@contextmanager
def _reading(file: Path) -> Iterator[Any]:
    try:
        opened = safe_open(file, framework="pt")
    except Exception as error:  # SafetensorError, OSError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RequestError(f"{file} cannot be read as safetensors: {reason}", "fetch or save it again") from error
    with opened as tensors:
        yield tensors


def _prefix(file: Path, names: list[str]) -> str:
    """What stands before the model's own names: peft's, diffusers', both, or nothing."""
    if any(name.startswith(("lora_unet_", "lora_te", "lora_transformer_")) for name in names):
        raise RequestError(f"{file} is in kohya's format, which names no layers", _ASK)
    others = [name for name in names if name.startswith("text_encoder")]
    if others:
        raise RequestError(f"{file} also changes a text encoder ({others[0]}), which is not merged", _ASK)
    for prefix in (_PEFT + _DIFFUSERS, _PEFT, _DIFFUSERS):
        # `transformer_blocks` is the model's own, so a prefix ends with a dot
        if names and all(name.startswith(prefix) for name in names):
            return prefix
    return ""


def _settings(file: Path, prefix: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Peft's settings: from beside the file, or from its metadata, where diffusers keeps them.

    Raises:
        RequestError: they are missing in peft's format, or ask for another formula.
    """
    beside = file.with_name("adapter_config.json")
    try:
        if prefix.startswith(_PEFT):
            settings: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
        else:
            stored = json.loads(metadata.get("lora_adapter_metadata", "{}"))
            settings = {name.removeprefix(_DIFFUSERS): value for name, value in stored.items()}
        alphas = settings.get("alpha_pattern") or {}
        _ = [float(alpha) for alpha in (settings.get("lora_alpha", 1), *alphas.values())]
        _ = [re.compile(pattern) for pattern in alphas]
    except FileNotFoundError as error:
        raise RequestError(f"{file} lacks {beside.name} beside it, which has its alpha", "fetch both files") from error
    except (OSError, ValueError, TypeError, AttributeError, re.error) as error:
        raise RequestError(f"the settings of {file} cannot be read: {error}", "fetch or save it again") from error
    for name, plain in _PLAIN.items():
        if settings.get(name) not in plain:
            raise RequestError(f"{file} has {name} = {settings[name]!r}, which is no plain LoRA", _ASK)
    return settings


def _layers(file: Path, tensors: Any, prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Factors]:
    """Every tensor of the file put to a parameter of the model; none may be left over."""
    sides: dict[str, dict[str, str]] = {}
    alphas: dict[str, float] = {}
    for name in tensors.keys():  # noqa: SIM118 - not a dict
        short = name.removeprefix(prefix)
        if factor := _FACTOR.fullmatch(short):
            side = {"down": "A", "up": "B"}.get(factor["side"], factor["side"])
            sides.setdefault(_parameter(file, factor["layer"], shapes), {})[side] = name
        elif (alpha := _ALPHA.fullmatch(short)) and not tensors.get_slice(name).get_shape():
            alphas[_parameter(file, alpha["layer"], shapes)] = float(tensors.get_tensor(name))
        else:
            raise RequestError(f"{file} holds {name}, which is no part of a plain LoRA", _ASK)
    if not sides:
        raise RequestError(f"{file} holds no LoRA", _ASK)
    layers = {}
    for parameter, found in sides.items():
        if set(found) != {"A", "B"}:
            raise RequestError(f"{file} has half of a change of {parameter}", "fetch or save it again")
        layers[parameter] = Factors(found["A"], found["B"], alphas.get(parameter))
        _check_shapes(file, tensors, layers[parameter], parameter, shapes[parameter])
    return layers


def _parameter(file: Path, layer: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The model's parameter that a layer's weight is; old files leave out that `to_out` is a list."""
    plain = layer.replace(".processor.", ".")
    found = [name for name in (f"{plain}.weight", f"{plain}.0.weight") if name in shapes]
    if not found:
        raise RequestError(f"{file} changes {layer}, and the denoiser has no such layer", _ASK)
    return found[0]


def _check_shapes(file: Path, tensors: Any, factors: Factors, name: str, shape: tuple[int, ...]) -> None:
    down, up = (tuple(tensors.get_slice(side).get_shape()) for side in (factors.down, factors.up))
    fits = len(down) > 1 and len(up) > 1 and down[0] == math.prod(up[1:]) and up[0] == shape[0]
    if not fits or math.prod(down[1:]) != math.prod(shape[1:]):
        raise RequestError(
            f"{file} is of another model: it changes {name} {list(shape)} by {list(up)} times {list(down)}", _ASK
        )


def _check_values(file: Path, tensors: Any) -> None:
    for name in tensors.keys():  # noqa: SIM118 - not a dict
        if not bool(tensors.get_tensor(name).float().isfinite().all()):
            raise RequestError(f"{file} holds NaN or infinity in {name}", "its training failed: give another LoRA")


def _sha256(file: Path, settings: Mapping[str, Any]) -> str:
    with file.open("rb") as stream:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
