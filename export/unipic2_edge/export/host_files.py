"""What the host looks up itself, as files: scheduler settings, tokenizers, position tables."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from safetensors.torch import save as save_tensors

from unipic2_edge.runtime.bundle import (
    FORMAT_VERSION,
    Latents,
    Manifest,
    Positions,
    Source,
    TaskDefaults,
    TextConditioning,
    TokenizerEntry,
)
from unipic2_edge.runtime.files import write_bytes
from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.configs import RELEASED_DEFAULTS
from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint

from .qwen_host import write_query_part
from .recipes import Recipe
from .sequence import position_tensors

SCHEDULER = "host/scheduler.json"
POSITIONS = "host/positions.safetensors"
_TOOLS = ("unipic2-edge", "torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx-ir")
_TOKENIZERS = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2", "tokenizer_3": "text_encoder_3"}


def write_host_part(checkpoint: Checkpoint, bundle: Path, recipe: Recipe) -> Manifest:
    """Write all of the host's files; the manifest without components, graphs, file entries and the source's hash."""
    (bundle / "host").mkdir(exist_ok=True)
    return Manifest(
        format_version=FORMAT_VERSION,
        name=checkpoint.folder.resolve().name,
        variant="kontext" if checkpoint.variant == "kontext" else "metaquery",
        source=Source(name=checkpoint.name, sha256=""),
        recipe=recipe.name,
        components={},
        graphs={},
        latents=describe_latents(checkpoint),
        positions=write_positions(checkpoint, bundle),
        scheduler=write_scheduler(checkpoint, bundle),
        text=write_tokenizers(checkpoint, bundle),
        defaults=task_defaults(checkpoint),
        files={},
        tools={tool: version(tool) for tool in _TOOLS},
        query=write_query_part(checkpoint, bundle, recipe) if isinstance(checkpoint, MetaqueryCheckpoint) else None,
    )


def write_scheduler(checkpoint: Checkpoint, bundle: Path) -> str:
    """Copy the scheduler's settings as they are; returns where they stand in the bundle."""
    settings = checkpoint.path("scheduler") / "scheduler_config.json"
    write_bytes(bundle / SCHEDULER, settings.read_bytes())
    return SCHEDULER


def describe_latents(checkpoint: Checkpoint) -> Latents:
    """The latent space, from the configs of the transformer and the autoencoder."""
    config, vae = checkpoint.config("transformer"), checkpoint.config("vae")
    return Latents(
        channels=config["in_channels"],
        factor=2 ** (len(vae["block_out_channels"]) - 1),
        patch_size=config["patch_size"],
        scaling_factor=vae["scaling_factor"],
        shift_factor=vae.get("shift_factor") or 0.0,
    )


def write_positions(checkpoint: Checkpoint, bundle: Path) -> Positions:
    """Write the position table: as two short ones where the checkpoint's is separable, as diffusers' is."""
    config = checkpoint.config("transformer")
    tensors = position_tensors(checkpoint.position_table())
    write_bytes(bundle / POSITIONS, save_tensors(tensors))
    return Positions(
        file=POSITIONS,
        kind="separable" if "x" in tensors else "table",
        max_size=config["pos_embed_max_size"],
        dim=config["num_attention_heads"] * config["attention_head_dim"],
    )


def write_tokenizers(checkpoint: Checkpoint, bundle: Path) -> TextConditioning | None:
    """Copy the three tokenizers; none where the checkpoint lacks one."""
    if not all(checkpoint.has(name) for name in _TOKENIZERS):
        return None
    tokenizers, config = checkpoint.tokenizers(), checkpoint.config("transformer")
    entries = {}
    for (name, graph), length, pad in zip(_TOKENIZERS.items(), tokenizers.lengths, tokenizers.pad_ids, strict=True):
        file = f"host/{name}.json"
        write_bytes(bundle / file, (checkpoint.path(name) / "tokenizer.json").read_bytes())
        entries[graph] = TokenizerEntry(file=file, length=length, pad_id=pad)
    return TextConditioning(
        tokenizers=entries, context_dim=config["joint_attention_dim"], pooled_dim=config["pooled_projection_dim"]
    )


def task_defaults(checkpoint: Checkpoint) -> dict[str, TaskDefaults]:
    """The checkpoint's own defaults, and the released scripts' where it has none."""
    return {task: TaskDefaults(**values) for task, values in (RELEASED_DEFAULTS | checkpoint.defaults()).items()}
