"""The flow-matching Euler sampler, in numpy: the schedule of diffusers' FlowMatchEulerDiscreteScheduler.

dx/dσ = v with x_σ = (1 − σ)·x0 + σ·ε (arXiv 2403.03206 §2). The schedule is read from the bundle's own
scheduler_config.json; options that are not computed here are refused, never ignored.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, RequestError

Floats = NDArray[np.float32]

_CLASS = "FlowMatchEulerDiscreteScheduler"
#: diffusers' options that change the schedule or the step and are not computed here.
_REFUSED = (
    "invert_sigmas",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of scheduler_config.json that decide the schedule, with diffusers' defaults."""

    num_train_timesteps: int = 1000
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float | None = 0.5
    max_shift: float | None = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    shift_terminal: float | None = None
    time_shift_type: Literal["exponential", "linear"] = "exponential"


class FlowMatchEuler:
    """The schedule of a bundle.

    Args:
        config: what scheduler_config.json holds.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config

    @classmethod
    def from_json(cls, data: bytes) -> FlowMatchEuler:
        """Read a scheduler_config.json.

        Raises:
            BundleError: not JSON, another scheduler's class, or an option that is not supported.
        """
        try:
            raw = msgspec.json.decode(data, type=dict[str, Any])
            config = msgspec.convert(raw, SchedulerConfig)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BundleError(f"the scheduler settings are damaged: {error}", "export the checkpoint again") from error
        name = raw.get("_class_name", _CLASS)
        if name != _CLASS:
            raise BundleError(f"the scheduler {name} is not supported", f"use a checkpoint with {_CLASS}")
        refused = [option for option in _REFUSED if raw.get(option)]
        if refused:
            raise BundleError(
                f"the scheduler option {refused[0]} is not supported",
                "set it to false in the checkpoint's scheduler",
            )
        return cls(config)

    def sigmas(self, steps: int, image_tokens: int) -> Floats:
        """The noise levels [steps + 1], from the first step's to 0.

        Args:
            steps: number of Euler steps.
            image_tokens: noisy patches of one picture; decides the shift where it is dynamic.

        Raises:
            RequestError: fewer than one step, or more than the model has noise levels.
        """
        config = self.config
        if not 1 <= steps <= config.num_train_timesteps:
            raise RequestError(f"{steps} steps cannot be done", f"use 1 to {config.num_train_timesteps} steps")
        first, last = self._range()
        levels = np.linspace(first * config.num_train_timesteps, last * config.num_train_timesteps, steps)
        sigmas = levels / config.num_train_timesteps
        if config.use_dynamic_shifting:
            sigmas = self._dynamic(sigmas, image_tokens)
        else:
            sigmas = config.shift * sigmas / (1 + (config.shift - 1) * sigmas)
        if config.shift_terminal:
            sigmas = _stretch(sigmas, config.shift_terminal)
        return np.append(sigmas.astype(np.float32), np.float32(0))

    def timesteps(self, sigmas: Floats) -> Floats:
        """The model's timesteps [steps] of a schedule: sigma · num_train_timesteps, the last left out."""
        return sigmas[:-1] * np.float32(self.config.num_train_timesteps)

    def mu(self, image_tokens: int) -> float:
        """The dynamic shift's exponent, linear in the sequence length (diffusers' `calculate_shift`)."""
        config = self.config
        low, high = config.base_shift or 0.0, config.max_shift or 0.0
        slope = (high - low) / (config.max_image_seq_len - config.base_image_seq_len)
        return image_tokens * slope + (low - slope * config.base_image_seq_len)

    def _range(self) -> tuple[float, float]:
        """The training schedule's largest and smallest sigma, in float32 as diffusers stores them."""
        config = self.config
        levels = np.float32(config.num_train_timesteps)
        ends = np.array([levels, 1], dtype=np.float32) / levels
        if not config.use_dynamic_shifting:
            shift = np.float32(config.shift)
            ends = shift * ends / (np.float32(1) + (shift - np.float32(1)) * ends)
        return float(ends[0]), float(ends[1])

    def _dynamic(self, sigmas: NDArray[np.float64], image_tokens: int) -> NDArray[np.float64]:
        mu = self.mu(image_tokens)
        scale = math.exp(mu) if self.config.time_shift_type == "exponential" else mu
        return scale / (scale + (1 / sigmas - 1))


def euler_step(latents: Floats, velocity: Floats, sigma: np.float32, next_sigma: np.float32) -> Floats:
    """One Euler step from sigma to the next: x + (σ' − σ)·v; shapes are those of `latents`."""
    return latents + (next_sigma - sigma) * velocity


def _stretch(sigmas: NDArray[np.float64], terminal: float) -> NDArray[np.float64]:
    """Stretch a schedule so that its last value is `terminal` (diffusers' `stretch_shift_to_terminal`)."""
    rest = 1 - sigmas
    return np.asarray(1 - rest / (rest[-1] / (1 - terminal)))
