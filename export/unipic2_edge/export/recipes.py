"""Export recipes: for every component the precision around, and for every layer what its product is made of.

    {"name": "mine", "version": 1,
     "components": {"denoiser": {"precision": "bfloat16", "rules": [
         {"layers": "denoiser.transformer_blocks.0.*"},
         {"layers": "denoiser.*", "weights": "int4", "block": 128, "method": "awq"}]}},
     "other": {"precision": "bfloat16"}}

A layer takes the first rule whose pattern (as a shell's: *, ?, [abc]) its name fits, and stays in the component's
precision without one. Layer names are the weights' names in the bundle: graph, path in the model, layer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import torch

from unipic2_edge.runtime.errors import RecipeError

from .quantization.formats import ActivationFormat, WeightFormat

#: What this version writes and reads.
RECIPE_VERSION = 1

Precision = Literal["float32", "float16", "bfloat16"]
Method = Literal["max", "smoothquant", "awq"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SHORT: dict[str, Precision] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Base of everything in a recipe: immutable, and strict about unknown fields."""


class LayerRule(_Part, frozen=True):
    """What the layers that fit a pattern are quantised to.

    Attributes:
        layers: a pattern of layer names.
        weights: the codes' format; None keeps the layer as it is.
        activations: the format of the inputs; None leaves them in the component's precision.
        block: inputs that share a scale, for int4; where it does not divide a layer's inputs, the largest power of
            two that does.
        method: "max" takes scales from the weights alone; "smoothquant" (arXiv 2211.10438) and "awq" (arXiv
            2306.00978) move magnitude between inputs and weights, channel by channel, as calibration finds best.
        rank: of a low-rank branch in the component's precision that takes up the weights' largest singular values
            (SVDQuant, arXiv 2411.05007); 0 for none.
        reduce_range: int8 weights of 7 bits, for processors whose 8-bit products saturate (x86 without VNNI).
    """

    layers: str
    weights: WeightFormat | None = None
    activations: ActivationFormat | None = None
    block: int | None = None
    method: Method = "max"
    rank: int = 0
    reduce_range: bool = False

    @property
    def calibrated(self) -> bool:
        """Whether scales depend on activations."""
        return self.weights is not None and (self.activations is not None or self.method != "max" or self.rank > 0)


class ComponentRecipe(_Part, frozen=True):
    """A component's precision, its layers' rules, and what its attention products are made of."""

    precision: Precision = "float32"
    rules: tuple[LayerRule, ...] = ()
    attention: Literal["fp8"] | None = None  # of the image's and the context's joint attention, in the denoiser

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype of what is not quantised; graphs take and give float32 whatever it is."""
        return _DTYPES[self.precision]

    @property
    def calibrated(self) -> bool:
        """Whether it needs a calibration set."""
        return self.attention is not None or any(rule.calibrated for rule in self.rules)

    @property
    def quantized(self) -> bool:
        """Whether anything is."""
        return self.attention is not None or any(rule.weights is not None for rule in self.rules)


class CalibrationSettings(_Part, frozen=True):
    """The calibration set: what is drawn, and how the denoiser is led through it.

    Attributes:
        source: "shapes", the small world's own captions and edits; or "folder".
        prompts: of generation, and as many edits.
        steps: of the sampler; None takes the checkpoint's default.
        size: the pictures' (width, height); None takes the checkpoint's default.
        guidance: None takes the checkpoint's default, so that both branches are seen.
        seed: of noise and of what is drawn.
        rows: activations kept of each layer to search scales with.
    """

    source: Literal["shapes", "folder"] = "shapes"
    prompts: int = 16
    steps: int | None = None
    size: tuple[int, int] | None = None
    guidance: float | None = None
    seed: int = 7
    rows: int = 512


class GateThresholds(_Part, frozen=True):
    """What a bundle may lose against its checkpoint in float32; a threshold of None is recorded and not judged.

    Attributes:
        velocity: largest mean relative error of the denoiser's velocity over the schedule.
        psnr: least mean PSNR of pictures from the same seeds, in dB.
        points: score on the shapes world, in points of a hundred, that may be lost beyond doubt (95 %).
        prompts: generation prompts, and as many edits, that are scored; 0 scores none.
    """

    velocity: float | None = None
    psnr: float | None = None
    points: float | None = None
    prompts: int = 0


class Recipe(_Part, frozen=True):
    """How a checkpoint becomes a bundle; `version` is the format's, and changes when a recipe's meaning does."""

    name: str
    version: int = RECIPE_VERSION
    components: dict[str, ComponentRecipe] = {}
    other: ComponentRecipe = ComponentRecipe()
    calibration: CalibrationSettings = CalibrationSettings()
    gate: GateThresholds = GateThresholds()

    def of(self, component: str) -> ComponentRecipe:
        """A component's recipe."""
        return self.components.get(component, self.other)

    @property
    def quantized(self) -> bool:
        """Whether any component is."""
        return any(part.quantized for part in (*self.components.values(), self.other))

    def to_dict(self) -> dict[str, object]:
        """JSON-ready fields."""
        fields: dict[str, object] = msgspec.to_builtins(self)
        return {"name": self.name, "version": self.version} | fields

    def to_json(self) -> bytes:
        """As a recipe file."""
        return msgspec.json.format(msgspec.json.encode(self.to_dict()), indent=2) + b"\n"

    def with_precision(self, precision: str) -> Recipe:
        """The same with another precision around, by its short or its long name.

        Raises:
            RecipeError: there is no such precision.
        """
        wanted = _SHORT.get(precision, precision)
        if wanted not in _DTYPES:
            raise RecipeError(f"there is no precision {precision!r}", f"use {', '.join(_SHORT)}")
        changed = {name: _with(part, wanted) for name, part in self.components.items()}
        return msgspec.structs.replace(self, components=changed, other=_with(self.other, wanted))


def _with(part: ComponentRecipe, precision: str) -> ComponentRecipe:
    return msgspec.structs.replace(part, precision=precision)


def recipe_from_json(data: bytes, name: str) -> Recipe:
    """Read a recipe file.

    Raises:
        RecipeError: not a recipe, an unknown field or format, or a newer version.
    """
    try:
        version = msgspec.json.decode(data, type=_Header).version
        if version > RECIPE_VERSION:
            raise RecipeError(
                f"{name} is of recipe version {version}, and this reads up to {RECIPE_VERSION}", "update unipic2-edge"
            )
        return msgspec.json.decode(data, type=Recipe)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{name} is not an export recipe: {error}", "`export --recipe fp8 --show-recipe` prints one to start from"
        ) from error


class _Header(msgspec.Struct):
    version: int = 1


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        RecipeError: it is missing or unreadable, or see `recipe_from_json`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}", "give a recipe's name or file") from error
    return recipe_from_json(data, str(path))
