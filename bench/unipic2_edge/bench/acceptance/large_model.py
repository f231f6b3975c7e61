"""The steps that make the large denoiser: random weights in the published layout, its bundles, its engines."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from unipic2_edge.bench.roofline.denoiser_only import context_length
from unipic2_edge.engines.sizes import Sizes, fixed_sizes, limited
from unipic2_edge.export.builtin_recipes import find_recipe
from unipic2_edge.export.bundle_writer import write_bundle
from unipic2_edge.export.quantization.fake import ComponentPlan
from unipic2_edge.export.quantization.probing import probed_plan
from unipic2_edge.export.recipes import Recipe
from unipic2_edge.export.work import graph_work
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.configs import KONTEXT, KontextConfig, with_layers
from unipic2_edge.training.init import init_checkpoint
from unipic2_edge.training.transformer import KontextTransformer

from .bundles import build_engines, check_room, kept
from .step import Job, Made, Setting, workload_name

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
ROWS = 2  # both branches of guidance
_INIT_PEAK, _EXPORT_PEAK = 1.4, 1.5  # memory for each byte of weights


def large_folder(setting: Setting) -> Path:
    """Where everything of the large model stands; another number of layers is another model."""
    return setting.folder / f"{setting.model}-{setting.layers or 'all'}-layers"


def large_bundle(setting: Setting, recipe: str) -> Path:
    """Where one of its bundles stands."""
    return large_folder(setting) / recipe


def large_dtype(setting: Setting) -> torch.dtype:
    """What PyTorch computes it in, and what is on disk: 16 bit on GPUs, 32 on processors."""
    return torch.float32 if setting.gpu is None else _DTYPES[setting.half]


def large_config(setting: Setting) -> KontextConfig:
    """Its config, with the layers that were asked for."""
    config = KONTEXT[setting.model]
    return config if setting.layers is None else with_layers(config, setting.layers)


def make_checkpoint(job: Job) -> Made:
    """Random weights for the transformer alone.

    Raises:
        SkippedError: memory or disk is too small.
        OutputError, WorkError: see `init_checkpoint`.
    """
    setting, config = job.setting, large_config(job.setting)
    dtype, folder = large_dtype(setting), large_folder(setting) / "checkpoint"
    with torch.device("meta"):
        parameters = sum(value.numel() for value in KontextTransformer(**config.transformer).parameters())
    amount = parameters * dtype.itemsize
    if job.again or not folder.exists():
        check_room(large_folder(setting), int(_INIT_PEAK * amount), "making the weights")
    kept(folder, job.again, lambda: init_checkpoint(config, folder, ("transformer",), dtype=dtype))
    layers, whole = config.transformer["num_layers"], KONTEXT[setting.model].transformer["num_layers"]
    scaled = "" if layers == whole else f" of {whole}: scaled down, seconds are not those of the whole model"
    results = {"parameters": parameters, "bytes": amount, "layers": layers, "whole_layers": whole}
    return Made(
        results=results | {"dtype": str(dtype).removeprefix("torch.")},
        lines=[f"{parameters / 1e6:.4g} million parameters, {layers} layers{scaled}, {amount / 1e9:.3g} GB"],
    )


def export_large(job: Job) -> Made:
    """Export it by the recipe of the arguments, and count the operations of a step of every workload.

    Scales of quantised layers are those that noise calls for: the weights are random, and are only timed.

    Raises:
        SkippedError: memory or disk is too small.
        OutputError, WorkError, CheckpointError: see `write_bundle`.
    """
    setting, name = job.setting, job.step.arguments["recipe"]
    folder, recipe = large_bundle(setting, name), _recipe(setting, name)
    checkpoint = Checkpoint.open(large_folder(setting) / "checkpoint", partial=True)
    if job.again or not folder.exists():
        check_room(large_folder(setting), int(_EXPORT_PEAK * _weights(job)), "exporting")
    kept(folder, job.again, lambda: _write(checkpoint, folder, recipe))
    bundle = Bundle(folder)
    size = sum(entry.bytes for entry in bundle.manifest.files.values())
    works = {workload_name(load): step_work(bundle, load) for load in setting.workloads}
    lines = [f"{size / 1e6:.1f} MB in {name}"]
    lines += [f"{load}: {sum(work.values()) / 1e9:.4g} GFLOP a step" for load, work in works.items()]
    return Made(results={"recipe": name, "bytes": size, "matrix_operations": works}, lines=lines)


def _weights(job: Job) -> int:
    return next((int(found["bytes"]) for found in job.found.values() if "parameters" in found), 0)


def _recipe(setting: Setting, name: str) -> Recipe:
    """The recipe, in the card's 16 bit around what is quantised."""
    recipe = find_recipe(name)
    if setting.gpu is not None and recipe.quantized:
        recipe = recipe.with_precision(setting.half)
    return msgspec.structs.replace(recipe, name=name)


def _write(checkpoint: Checkpoint, folder: Path, recipe: Recipe) -> None:
    plans: dict[str, ComponentPlan] = {}
    if recipe.of("denoiser").quantized:
        plans["denoiser"] = probed_plan(checkpoint, recipe)
    write_bundle(checkpoint, folder, recipe, ("denoiser",), plans=plans)


def build_large(job: Job) -> Made:
    """Compile it for the workloads' sizes; raises as `build_engines`."""
    backend, recipe = job.step.arguments["backend"], job.step.arguments["recipe"]
    bundle = Bundle(large_bundle(job.setting, recipe))
    return build_engines(job.setting, bundle, backend, _sizes(job.setting, bundle))


def _sizes(setting: Setting, bundle: Bundle) -> Sizes:
    """What the workloads span, as `build --sizes` would have it; one picture with guidance."""
    tasks = tuple(dict.fromkeys(task for task, _, _ in setting.workloads))
    return limited(fixed_sizes(bundle.manifest, [(width, height) for _, width, height in setting.workloads]), tasks, 1)


def tokens_of(bundle: Bundle, load: tuple[str, int, int]) -> int:
    """The tokens of a workload's pictures: an edit's reference stands before what is drawn."""
    task, width, height = load
    cell = bundle.manifest.latents.factor * bundle.manifest.latents.patch_size
    return (2 if task == "edit" else 1) * (width // cell) * (height // cell)


def step_work(bundle: Bundle, load: tuple[str, int, int]) -> dict[str, int]:
    """The matrix operations of one denoising step with guidance, by number format, counted on the graph."""
    extents = {"batch": ROWS, "tokens": tokens_of(bundle, load), "context": context_length(bundle)}
    return graph_work(bundle, "denoiser", extents).matrix
