"""A training recipe: one TOML file that says what is trained, on what, and how; the same schema at every size."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import msgspec

from .data.settings import Shards, ShardSource, problems_of_shards
from .errors import RecipeError
from .recipe_mistakes import explained
from .reinforcement.settings import Reinforce, problems_of
from .section import Adapter as Adapter
from .section import AtLeastOne, Count, Decay, Fraction, NotNegative, Positive, Whole
from .section import Section as Section

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Stage = Literal[
    "autoencoder",
    "text",
    "denoiser",
    "vision-language",
    "metaquery",
    "metaquery-joint",
    "distillation",
    "reinforce",
]

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


class Data(Section, frozen=True):
    """What is trained on: `shapes` (drawn as needed) at these sizes, or `shards`; with these shares of the draws."""

    kind: Literal["shapes", "shards"] = "shapes"
    sources: tuple[ShardSource, ...] = ()
    shards: Shards = Shards()
    sizes: tuple[tuple[Count, Count], ...] = ((64, 64),)  # width, height in pixels
    size_weights: tuple[Positive, ...] = (1.0,)
    edit_share: Fraction = 0.5  # of the micro-batches; each micro-batch has one task and one size
    prompt_dropout: Fraction = 0.1
    cached_pairs: Count = 16_384  # (source, edit, target) triples, encoded once, shard by shard as the run goes
    captions_per_picture: Count = 4
    composed: Fraction = 0.0  # of the captions' micro-batches: laid out as the words are (shapes/composition.py)


class Optimizer(Section, frozen=True):
    """AdamW, or Muon for the hidden matrices with AdamW for the rest."""

    name: Literal["adamw", "muon"] = "adamw"
    lr: Positive = 1e-4
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0


class Schedule(Section, frozen=True):
    """Learning rate over `steps`: linear warm-up, then constant until the last `decay` share falls to zero.

    `decay = 1` is linear decay from the end of the warm-up; `cosine` replaces the line by a half cosine.
    """

    steps: Count
    warmup: Whole = 100
    decay: Fraction = 1.0
    cosine: bool = False


class Flow(Section, frozen=True):
    """Flow matching's time: logit-normal or uniform u through the shift, s = shift·u / (1 + (shift − 1)·u)."""

    timesteps: Literal["logit-normal", "uniform"] = "logit-normal"
    logit_mean: float = 0.0
    logit_std: Positive = 1.0
    shift: Positive = 3.0


class Talk(Section, frozen=True):
    """The vision-language stage's lessons, as shares of its micro-batches; the rest are questions about pictures.

    Of those, `small_share` see the picture at the editing size; of the others, `system_share` begin with the default
    system prompt.
    """

    questions: Count = 4  # about one picture, in one conversation
    caption_share: Fraction = 0.1
    instruction_share: Fraction = 0.2
    small_share: Fraction = 0.4
    system_share: Fraction = 0.5


class Alignment(Section, frozen=True):
    """The MetaQuery stage's first `steps`: a regression on the denoiser's own text encoders, without the denoiser."""

    steps: Whole = 0


class Distillation(Section, frozen=True):
    """The few-step, guidance-free student: as LoRAs on the teacher, or (`full`) as copies of it.

    `trajectory` is regression on the teacher's guided steps; `cdm` is continuous-time distribution matching; `targets`
    is regression on the data's own targets for edits, while generation is held where the teacher has it.
    """

    method: Literal["trajectory", "cdm", "targets"] = "trajectory"
    steps: Count = 8  # of the student
    shift: AtLeastOne = 3.0  # of its noise levels
    guidance: AtLeastOne = 3.5  # the teacher's, which the student learns to do without
    full: bool = False
    adapter: Adapter = Adapter()
    substeps: Count = 2  # trajectory: steps of the teacher within one of the student's
    led_share: Fraction = 0.5  # trajectory: of rows that go on from the teacher's latents, not from the student's
    rollout_steps: Count = 28  # cdm: at most, in a rollout
    fake_rate: Positive = 0.5  # cdm: the fake's factor on the learning rate
    fake_decay: Decay = 0.999  # cdm: of the fake, towards the student, at every step
    evaluated: Count = 72  # pictures of each task at every look


class Logging(Section, frozen=True):
    """How often, in steps, the run logs, draws sample grids and saves its state (0: never)."""

    every: Count = 50
    samples_every: Whole = 500
    state_every: Whole = 250
    keep_states: Count = 2  # the newest
    peak_tflops: NotNegative = 0.0  # of one device, what MFU is a share of; 0: a matrix product's, timed at the start


class Guard(Section, frozen=True):
    """Steps whose loss or gradients are not finite may be skipped, so many in a run; losses that jump are logged."""

    skips: Whole = 0
    spike: NotNegative = 3.0  # times the loss's running mean; 0: nothing is logged


class Recipe(Section, frozen=True):
    """A whole recipe. `config` names a model size; `init` names a checkpoint folder to start from."""

    name: str
    stage: Stage
    config: str
    schedule: Schedule
    init: str | None = None
    output: str | None = None
    seed: Whole = 0
    batch_size: Count = 64  # of a micro-batch in one process
    gradient_accumulation: Count = 1
    gradient_checkpointing: bool = False
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"  # of encoders and language models that only listen
    compile: bool = False
    ema_decay: Decay = 0.0  # 0: no average
    threads: Whole = 0  # CPU threads; 0 leaves the library's choice
    data: Data = Data()
    optimizer: Optimizer = Optimizer()
    flow: Flow = Flow()
    lora: Adapter | None = None  # the denoiser stage trains it instead of the weights
    talk: Talk = Talk()
    alignment: Alignment = Alignment()
    distillation: Distillation = Distillation()
    reinforce: Reinforce = Reinforce()
    logging: Logging = Logging()
    guard: Guard = Guard()


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by file path or by the name of one in `training/recipes/`, then apply `KEY=VALUE` overrides.

    Raises:
        RecipeError: no such recipe, it does not parse, or a field is unknown, of the wrong type or out of its range.
    """
    path = _find(name)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}", "correct the recipe file") from error
    for override in overrides or []:
        _override(content, override)
    try:
        recipe = msgspec.convert(content, Recipe, strict=False)
    except msgspec.ValidationError as error:
        raise explained(path.name, str(error), content, Recipe) from error
    _check(recipe, path)
    return recipe


def _find(name: str) -> Path:
    for path in (Path(name), RECIPES / f"{name}.toml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml"))) or "none"
    raise RecipeError(f"there is no recipe {name}", f"give a .toml file or one of: {known}")


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override} is not KEY=VALUE", "for instance --set schedule.steps=1000")
    table = content
    *parents, last = key.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {key}: {parent} is not a table", "see training/README.md")
    try:
        table[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = value


def _check(recipe: Recipe, path: Path) -> None:
    """What depends on several fields, or on more of one than its range."""
    talk = recipe.talk
    problems = {
        "data.size_weights needs one weight a size": len(recipe.data.sizes) != len(recipe.data.size_weights),
        "data.sizes must be multiples of 32": any(side % 32 for size in recipe.data.sizes for side in size),
        "talk.caption_share and talk.instruction_share must be at most 1 together": (
            talk.caption_share + talk.instruction_share > 1
        ),
        "frozen_dtype = bfloat16 needs mixed_precision": (
            recipe.frozen_dtype != "float32" and recipe.mixed_precision == "no"
        ),
    }
    problems |= problems_of_shards(recipe.data.kind, recipe.data.sources, recipe.data.shards)
    problems |= problems_of(recipe.reinforce)
    problems["lora is for the stage denoiser"] = recipe.lora is not None and recipe.stage != "denoiser"
    problems['data.kind = "shards" is for the stages denoiser and distillation'] = (
        recipe.data.kind == "shards" and recipe.stage not in ("denoiser", "distillation")
    )
    for problem, wrong in problems.items():
        if wrong:
            raise RecipeError(f"{path.name}: {problem}", "correct the recipe or the --set option")
