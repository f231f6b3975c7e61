"""The denoiser stage: flow matching on generation and editing together, against the frozen VAE and encoders."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from .autoencoder import to_pictures, to_tensor
from .checkpoint import Checkpoint, save_checkpoint
from .conditioning import TokenIds
from .configs import KONTEXT
from .data.examples import ShardExamples
from .data.probe import framed
from .examination import Examination
from .flow import Condition, sample, velocity_loss
from .grids import save_grid
from .latent_shards import LatentShards
from .loop.stage import TOKENS, Stage, Stateful
from .lora_writer import write_lora
from .recipe import Recipe
from .shapes.render import Picture
from .shapes.scene import Canvas
from .transformer import KontextTransformer
from .variants import Variants

_EVALUATED = 72  # pictures of each task at every look
_STEPS, _GUIDANCE = 28, 3.5
_LORA = "lora"


class DenoiserStage(Stage):
    """Pre-trains the Kontext transformer of a checkpoint whose other parts are frozen.

    `recipe.init` names the checkpoint with the frozen parts; if it has a transformer of the config's shape,
    training goes on from its weights, else the transformer starts anew.
    """

    def __init__(self, recipe: Recipe, output: Path) -> None:
        self.recipe = recipe
        self.checkpoint = Checkpoint.open(Path(recipe.init or ""), partial=True)
        self.vae = self.checkpoint.load_vae().requires_grad_(False)
        dtype = getattr(torch, recipe.frozen_dtype)
        self.conditioner = self.checkpoint.load_conditioner(dtype).requires_grad_(False).eval()
        self.tokenize = self.checkpoint.tokenizers()
        torch.manual_seed(recipe.seed)
        self.model: nn.Module = self._transformer()
        self.canvases = [Canvas(*size) for size in recipe.data.sizes]
        self.shards = LatentShards.of(recipe, output / "latents", self.vae, self.tokenize)
        self.examples = self._examples(output) if recipe.data.kind == "shards" else None

    def _examples(self, output: Path) -> ShardExamples:
        return ShardExamples(self.recipe, self.checkpoint, self.vae, self.conditioner, self.tokenize, output)

    def stateful(self) -> Sequence[Stateful]:
        """Where the streams of shards stand."""
        return () if self.examples is None else (self.examples.begin(self.share),)

    def _transformer(self) -> nn.Module:
        """The denoiser, or with `recipe.lora` a LoRA on it, whose weights then stay as they are."""
        adapter = self.recipe.lora
        if self.checkpoint.has("transformer"):
            model = self.checkpoint.load_transformer()
        else:
            model = KontextTransformer(**KONTEXT[self.recipe.config].transformer)
            initialise(model)
        trained = model if adapter is None else Variants(model, [_LORA], adapter, [_LORA])
        if self.recipe.gradient_checkpointing:
            trained.enable_gradient_checkpointing()
        if self.recipe.compile:
            trained.compile_blocks()
        return trained

    def _denoiser(self) -> Any:
        """What is trained, to be called as a denoiser is."""
        return self.model if self.recipe.lora is None else partial(self.model, _LORA)

    def losses(self, step: int, device: torch.device) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """The flow-matching loss of one micro-batch of one task each."""
        self._to(device)
        count = self.recipe.gradient_accumulation
        available = self.shards.reached(step, self.recipe.data.cached_pairs)
        for micro in range(count):
            number = step * count + micro
            rng = np.random.default_rng([self.recipe.seed, number])
            share = self.recipe.data.edit_share
            edit = int((number + 1) * share) > int(number * share)
            size, dropout = self.recipe.batch_size, self.recipe.data.prompt_dropout
            counts: dict[str, float] = {}
            drawn = rng.random(self.share.total(size))[self.share.rows(size)]
            if self.examples is None:
                batch = self.shards.batch(rng, available, size, edit, device, self.share)
                dropped = torch.from_numpy(drawn < dropout).to(device)
                latents, condition = batch.latents, Condition(*self._condition(batch.ids, dropped), batch.reference)
            else:
                latents, condition = self.examples.batch(edit, drawn < dropout, device)
                counts = self.examples.counts()
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            loss = velocity_loss(self._denoiser(), self.recipe.flow, latents, condition, generator, self.share)
            yield loss, counts | {TOKENS: self._tokens(latents, condition.reference, condition.context)}

    def _tokens(self, latents: Tensor, reference: Tensor | None, context: Tensor) -> int:
        """Of one micro-batch: patches, of the reference too, and words."""
        area = int(KONTEXT[self.recipe.config].transformer["patch_size"]) ** 2
        pictures = (latents,) if reference is None else (latents, reference)
        return sum(each[:, 0].numel() // area for each in pictures) + context[..., 0].numel()

    @torch.no_grad()
    def _condition(self, ids: TokenIds, dropped: Tensor) -> tuple[Tensor, Tensor]:
        empty = self.tokenize([""])
        kept = tuple(
            torch.where(dropped[:, None], blank.to(part.device), part) for part, blank in zip(ids, empty, strict=True)
        )
        context, pooled = self.conditioner((kept[0], kept[1], kept[2]))
        return context.float(), pooled.float()

    def _to(self, device: torch.device) -> None:
        if self.vae.device != device:
            self.vae.to(device)
            self.conditioner.to(device)

    def flops(self) -> float:
        """Counted on the meta device."""
        from .planning.dry_run import planned_flops  # which imports every stage's models

        return planned_flops(self.recipe)

    def samples(self, folder: Path, step: int) -> dict[str, float]:
        """Generate and edit with the deployed settings: unseen prompts of shapes, scored, or the data's own records."""
        if self.examples is not None and self.recipe.data.shards.judge == "probe":
            return self._probed(self.examples, folder / f"step-{step:07d}.png")
        return Examination(self.canvases[0], _EVALUATED).take(self._draw, folder / f"step-{step:07d}.png")

    def _probed(self, examples: ShardExamples, path: Path) -> dict[str, float]:
        """The loss on the data's first records, always at the same noise, and what is made of their words."""
        device = next(self.model.parameters()).device
        self._to(device)
        losses: dict[str, float] = {}
        rows: list[Picture] = []
        for probe in examples.probes():
            latents, condition = examples.encoded(probe.samples, probe.edit, np.zeros(len(probe.samples), bool), device)
            generator = torch.Generator().manual_seed(5)
            loss = velocity_loss(self._denoiser(), self.recipe.flow, latents, condition, generator)
            losses["edit_probe_loss" if probe.edit else "generate_probe_loss"] = float(loss)
            sources = probe.pictures(0) if probe.edit else None
            rows += probe.rows(self._draw(probe.texts, sources, probe.samples[0].size))
        save_grid(path, framed(rows), columns=6)
        return losses

    def _draw(
        self, texts: list[str], sources: list[Picture] | None, size: tuple[int, int] | None = None
    ) -> list[Picture]:
        device = next(self.model.parameters()).device
        self._to(device)
        none = torch.zeros(len(texts), dtype=torch.bool, device=device)
        first, second, third = (part.to(device) for part in self.tokenize(texts))
        ids = (first, second, third)
        config = self.vae.config
        context, pooled = (
            torch.cat(pair) for pair in zip(self._condition(ids, ~none), self._condition(ids, none), strict=True)
        )
        reference = None
        if sources is not None:
            encoded = self.vae.encode(to_tensor(sources).to(device)).latent_dist.mode()
            reference = (encoded - config.shift_factor) * config.scaling_factor
        side = 2 ** (len(config.block_out_channels) - 1)
        width, height = size or (self.canvases[0].width, self.canvases[0].height)
        shape = (len(texts), config.latent_channels, height // side, width // side)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(device)
        latents = sample(self._denoiser(), self._scheduler(), noise, context, pooled, reference, _STEPS, _GUIDANCE)
        return to_pictures(self.vae.decode(latents / config.scaling_factor + config.shift_factor).sample)

    def finish(self, output: Path) -> None:
        """Write the whole checkpoint, frozen parts included, to `<output>/checkpoint`; a LoRA merged, and as a file."""
        canvas = self.canvases[0]
        common = {
            "height": canvas.height,
            "width": canvas.width,
            "num_inference_steps": _STEPS,
            "guidance_scale": _GUIDANCE,
        }
        defaults = self.checkpoint.defaults() or {"generate": common, "edit": common}
        trained: Any = self.model
        parts = {"transformer": (copy.deepcopy(trained) if self.recipe.lora is None else trained.merged(_LORA)).float()}
        if not self.checkpoint.has("scheduler"):
            parts["scheduler"] = self._scheduler()
        save_checkpoint(output / "checkpoint", self.checkpoint, defaults, replace=True, **parts)
        if self.recipe.lora is not None:
            write_lora(output / "lora.safetensors", trained, _LORA)

    def _scheduler(self) -> FlowMatchEulerDiscreteScheduler:
        return FlowMatchEulerDiscreteScheduler(**KONTEXT[self.recipe.config].scheduler)


def initialise(model: KontextTransformer) -> None:
    """DiT's initialisation (arXiv 2212.09748, §3.2): Xavier, and every block starts as the identity."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if name.endswith(("norm1.linear", "norm1_context.linear")) or name in ("norm_out.linear", "proj_out"):
                nn.init.zeros_(module.weight)
            elif "timestep_embedder" in name:
                nn.init.normal_(module.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(model.pos_embed.proj.weight.view(model.pos_embed.proj.weight.shape[0], -1))
