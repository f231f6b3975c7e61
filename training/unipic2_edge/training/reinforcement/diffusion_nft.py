"""DiffusionNFT (arXiv 2509.16117): flow matching towards good pictures and, mirrored, away from bad ones.

No probabilities are needed, so any sampler draws the pictures; two versions of the denoiser, new and old, are compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..variants import Variants
from .algorithm import POLICY, Algorithm, Episode, Items, Told, velocity
from .settings import Nft, Noise, Reinforce

OLD = "old"


class DiffusionNft(Algorithm):
    """Learns from every picture at some noise levels of the sampler's grid; the old version draws the pictures."""

    variants = (POLICY, OLD)
    actor = OLD

    def __init__(self, settings: Reinforce) -> None:
        self.settings, self.clip = settings.nft, settings.clip_advantage
        self.noise = Noise(level=0.0)

    def items(self, episode: Episode, generator: torch.Generator) -> Items:
        """Every picture at `times` different levels of the grid that are asked for, or at all where there are fewer."""
        count, levels = len(episode.advantages), torch.tensor(levels_of(self.settings, episode.sigmas))
        times = min(self.settings.times, len(levels))
        places = levels[torch.rand(count, len(levels), generator=generator).argsort(1)[:, :times]]
        return Items(torch.arange(count).repeat_interleave(times), places.flatten())

    def loss(
        self, model: nn.Module, episode: Episode, items: Items, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """See `nft_loss`; without guidance, whatever the pictures were drawn with. Plus KL's weight · ‖v − v_ref‖²."""
        clean = episode.trajectory.clean[items.pictures]
        times = torch.tensor(episode.sigmas, device=clean.device)[items.places]
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        mixed = times[:, None, None, None]
        noisy = (1 - mixed) * clean + mixed * noise
        told = Told(episode.told.prompts, None, 1.0)
        prompts = items.pictures // episode.group
        new = velocity(model, POLICY, told, prompts, noisy, times)
        with torch.no_grad():
            old = velocity(model, OLD, told, prompts, noisy, times)
        share = (episode.advantages[items.pictures] / (2 * self.clip) + 0.5).clamp(0, 1)
        loss = self.clip * nft_loss(new, old, noisy, clean, times, share, self.settings.mix)
        metrics = {"old_distance": float((new.detach() - old).square().mean())}
        if self.settings.kl:
            with torch.no_grad():
                frozen = velocity(model, None, told, prompts, noisy, times)
            divergence = (new - frozen).square().mean()
            loss = loss + self.settings.kl * divergence
            metrics["kl"] = float(divergence.detach())
        return loss, metrics

    def after_episode(self, variants: Variants, episodes: int) -> None:
        """The old version follows the new one, more and more slowly."""
        decay = min(self.settings.decay_rate * episodes, self.settings.decay_most)
        variants.blend(OLD, POLICY, decay)


def levels_of(settings: Nft, sigmas: Sequence[float]) -> list[int]:
    """The places on the grid, its clean end left out, that are learned from; the paper takes all."""
    low, high = settings.sigmas
    return [place for place, sigma in enumerate(sigmas[:-1]) if low <= sigma <= high]


def nft_loss(
    new: Tensor, old: Tensor, noisy: Tensor, clean: Tensor, times: Tensor, share: Tensor, mix: float
) -> Tensor:
    """mean(r·l⁺/β + (1 − r)·l⁻/β), the losses normalised by themselves.

    v⁺ = β·v + (1 − β)·v_old, v⁻ = (1 + β)·v_old − β·v, x̂± = x_t − t·v±, l± = mean((x̂± − x0)²) / mean|x̂± − x0|, the
    divisor without gradient. At v = v_old the gradient of a picture is that of flow matching times (2r − 1)/mean|…|.

    Args:
        new: v, [M, C, h, w].
        old: v_old, without gradient.
        noisy: x_t.
        clean: x0.
        times: t, [M].
        share: r, how good each picture is, 0…1, [M].
        mix: β.
    """
    t = times[:, None, None, None]
    terms = []
    for side in (mix * new + (1 - mix) * old, (1 + mix) * old - mix * new):
        away = noisy - t * side - clean
        scale = away.detach().abs().mean(dim=(1, 2, 3)).clamp(min=1e-5)
        terms.append(away.square().mean(dim=(1, 2, 3)) / scale / mix)
    return (share * terms[0] + (1 - share) * terms[1]).mean()
