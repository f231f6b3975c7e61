"""Flow-GRPO (arXiv 2505.05470): policy gradient on the noisy steps, clipped ratio, KL to the frozen reference."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .algorithm import POLICY, Algorithm, Episode, Items, velocity
from .rollout import Move, move
from .settings import Reinforce


class FlowGrpo(Algorithm):
    """Learns from every noisy step of every picture."""

    def __init__(self, settings: Reinforce) -> None:
        self.settings, self.noise = settings.grpo, settings.noise
        self.on_policy = settings.updates == 1

    def items(self, episode: Episode, generator: torch.Generator) -> Items:
        """Every picture at every noisy step, which is the item's place among the noisy ones."""
        count, steps = len(episode.advantages), len(episode.trajectory.steps)
        index = torch.arange(count * steps)
        return Items(index // steps, index % steps)

    def loss(
        self, model: nn.Module, episode: Episode, items: Items, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """mean(max(−A·ρ, −A·clip(ρ, 1 ± ε))) + β·KL, ρ = exp(log-prob − log-prob then).

        Log-probabilities are means over dimensions, so ρ is the ratio's geometric mean over them. KL in closed form
        between the two steps' normal distributions of equal deviation: mean over dimensions of (m − m_ref)²/(2·std²).
        """
        before = episode.trajectory.before[items.places, items.pictures]
        after = episode.trajectory.after[items.places, items.pictures]
        landing = self._move(model, POLICY, episode, items, before)
        new = landing.log_prob(after)
        # Where there is one update only, the weights are those that drew: no rounding of the sampler's gets in.
        old = new.detach() if self.on_policy else episode.trajectory.log_probs[items.places, items.pictures]
        ratio = (new - old).exp()
        gain = episode.advantages[items.pictures]
        clip = self.settings.clip
        loss = torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - clip, 1 + clip)).mean()
        metrics = {
            "ratio_distance": float((ratio.detach() - 1).abs().mean()),
            "clipped": float(((ratio.detach() - 1).abs() > clip).float().mean()),
        }
        if self.settings.kl:
            with torch.no_grad():
                frozen = self._move(model, None, episode, items, before)
            divergence = ((landing.mean - frozen.mean) / landing.std).square().mean() / 2
            loss = loss + self.settings.kl * divergence
            metrics["kl"] = float(divergence.detach())
        return loss, metrics

    def _move(self, model: nn.Module, variant: str | None, episode: Episode, items: Items, before: Tensor) -> Move:
        grid = torch.tensor(episode.sigmas, device=before.device)
        steps = torch.tensor(episode.trajectory.steps, device=before.device)[items.places]
        prompts = items.pictures // episode.group
        out = velocity(model, variant, episode.told, prompts, before, grid[steps])
        return move(self.noise, before, out, grid[steps], grid[steps + 1], episode.sigmas[1])
