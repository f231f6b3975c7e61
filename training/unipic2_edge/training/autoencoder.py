"""The autoencoder stage: AutoencoderKL trained on drawn pictures until the verifier reads its reconstructions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from .configs import KONTEXT
from .grids import save_grid
from .loop.stage import Stage
from .recipe import Recipe
from .shapes.render import Picture, render
from .shapes.scene import Canvas, Scene, sample_scene
from .shapes.verifier import scene_reads_back

_KL_WEIGHT = 1e-3  # per latent dimension
_OBJECT_WEIGHT = 5.0  # objects cover a tenth of a picture; unweighted, their edges come last
_EVALUATED = 400


def to_tensor(pictures: list[Picture]) -> Tensor:
    """Pictures [H, W, 3] uint8 → [B, 3, H, W] in −1…1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(images: Tensor) -> list[Picture]:
    """[B, 3, H, W] in −1…1 → pictures [H, W, 3] uint8."""
    levels = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return list(levels.permute(0, 2, 3, 1).cpu().numpy())


class Reconstruction(nn.Module):
    """An autoencoder that draws from its posterior, as one module."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B, 3, H, W] and noise [B, C, h, w] → their reconstructions, and the posterior's mean and log σ²."""
        posterior = self.vae.encode(images).latent_dist
        return self.vae.decode(posterior.mean + posterior.std * noise).sample, posterior.mean, posterior.logvar


class AutoencoderStage(Stage):
    """Trains the VAE of a model config: weighted L1 plus KL, then folds the latents' channel scales into it."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self.model: Any = Reconstruction(AutoencoderKL(**KONTEXT[recipe.config].vae))
        for module in self.model.modules():
            if isinstance(module, ResnetBlock2D):  # residual branches start at zero: trains several times faster
                nn.init.zeros_(module.conv2.weight)
        self.canvases = [Canvas(*size) for size in recipe.data.sizes]

    def losses(self, step: int, device: torch.device) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """One micro-batch each of `gradient_accumulation`."""
        for micro in range(self.recipe.gradient_accumulation):
            number = step * self.recipe.gradient_accumulation + micro
            rng = np.random.default_rng([self.recipe.seed, step, micro])
            canvas = self.canvases[int(rng.choice(len(self.canvases), p=_normalised(self.recipe.data.size_weights)))]
            size = self.recipe.batch_size
            scenes = [sample_scene(rng, canvas) for _ in range(self.share.total(size))][self.share.rows(size)]
            images = to_tensor([render(scene) for scene in scenes]).to(device)
            decoded, mean, logvar = self.model(images, self._noise(canvas, number).to(device))
            weight = 1 + (_OBJECT_WEIGHT - 1) * _object_mask(images)
            reconstruction = ((decoded - images).abs() * weight).mean()
            kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()  # from N(0, 1), per dimension
            yield reconstruction + _KL_WEIGHT * kl, {"reconstruction": float(reconstruction), "kl": float(kl)}

    def _noise(self, canvas: Canvas, number: int) -> Tensor:
        """For the latents of micro-batch `number`."""
        sizes = KONTEXT[self.recipe.config].vae
        side = 2 ** (len(sizes["block_out_channels"]) - 1)
        shape = (self.recipe.batch_size, sizes["latent_channels"], canvas.height // side, canvas.width // side)
        return self.share.noise(shape, torch.Generator().manual_seed(number))

    def flops(self) -> float:
        """Counted on the meta device."""
        from .planning.dry_run import planned_flops  # which imports every stage's models

        return planned_flops(self.recipe)

    def samples(self, folder: Path, step: int) -> dict[str, float]:
        """Reconstruct unseen scenes; the share that the verifier reads back as they were, and PSNR in dB."""
        scenes, pictures, decoded = self._reconstructions(_EVALUATED)
        save_grid(
            folder / f"step-{step:07d}.png",
            [x for pair in zip(pictures[:32], decoded[:32], strict=True) for x in pair],
        )
        passed = [scene_reads_back(scene, picture).right for scene, picture in zip(scenes, decoded, strict=True)]
        error = np.mean([(p.astype(float) - d.astype(float)) ** 2 for p, d in zip(pictures, decoded, strict=True)])
        return {"passed": float(np.mean(passed)), "psnr": 10 * math.log10(255**2 / max(float(error), 1e-9))}

    def _reconstructions(self, count: int) -> tuple[list[Scene], list[Picture], list[Picture]]:
        rng = np.random.default_rng([self.recipe.seed, 10**9])
        scenes = [sample_scene(rng, self.canvases[0], held_out=i % 20 == 0) for i in range(count)]
        pictures = [render(scene) for scene in scenes]
        device = next(self.model.parameters()).device
        decoded: list[Picture] = []
        for start in range(0, count, 50):
            images = to_tensor(pictures[start : start + 50]).to(device)
            decoded += to_pictures(self.model.vae.decode(self.model.vae.encode(images).latent_dist.mode()).sample)
        return scenes, pictures, decoded

    def finish(self, output: Path) -> None:
        """Normalise the latents per channel and write `<output>/vae`."""
        _, pictures, _ = self._reconstructions(_EVALUATED)
        device = next(self.model.parameters()).device
        normalise_latents(self.model.vae, to_tensor(pictures).to(device))
        self.model.vae.save_pretrained(output / "vae")


def normalise_latents(vae: AutoencoderKL, images: Tensor) -> None:
    """Fold each latent channel's standard deviation into the convolutions beside it, exactly.

    Channels of a VAE differ in scale many times over, and a denoiser learns far better when all are near one;
    `scaling_factor` can only scale them together. The common mean goes into `shift_factor`: a shift per channel
    could not be folded in, because the decoder's first convolution pads with zeros.
    """
    mean = torch.cat([vae.encode(part).latent_dist.mode() for part in torch.split(images, 50)])
    scale = mean.std(dim=(0, 2, 3))  # [C]
    channels = len(scale)
    encoder, decoder = vae.encoder.conv_out, vae.decoder.conv_in
    encoder.weight[:channels] /= scale[:, None, None, None]
    encoder.bias[:channels] /= scale
    encoder.bias[channels:] -= 2 * scale.log()
    decoder.weight *= scale[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0, shift_factor=round(float((mean / scale[:, None, None]).mean()), 4))


def _object_mask(images: Tensor) -> Tensor:
    """Where a picture differs from its corner's colour, [B, 1, H, W]."""
    ground = images[:, :, :1, :1]
    return ((images - ground).abs().amax(1, keepdim=True) > 0.02).float()


def _normalised(weights: tuple[float, ...]) -> list[float]:
    return [weight / sum(weights) for weight in weights]
