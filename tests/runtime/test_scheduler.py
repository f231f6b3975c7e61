"""The numpy schedule against diffusers' FlowMatchEulerDiscreteScheduler, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from unipic2_edge.runtime.errors import BundleError, RequestError
from unipic2_edge.runtime.scheduler import FlowMatchEuler, euler_step

CONFIGS = [
    {},
    {"shift": 3.0},
    {"shift": 3.0, "num_train_timesteps": 500},
    {"shift": 1.7, "shift_terminal": 0.1},
    {"use_dynamic_shifting": True},
    {"use_dynamic_shifting": True, "base_shift": 0.3, "max_shift": 2.0, "base_image_seq_len": 16, "shift": 3.0},
    {"use_dynamic_shifting": True, "time_shift_type": "linear", "max_image_seq_len": 1024},
    {"use_dynamic_shifting": True, "shift_terminal": 0.02},
]


def _ours(config: dict) -> FlowMatchEuler:
    return FlowMatchEuler.from_json(json.dumps(config).encode())


@pytest.fixture(scope="module")
def diffusers_scheduler():
    return pytest.importorskip("diffusers").FlowMatchEulerDiscreteScheduler


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 4, 28, 50])
def test_the_schedule_is_diffusers(diffusers_scheduler, config: dict, steps: int) -> None:
    if steps == 1 and config.get("shift_terminal"):
        pytest.skip("diffusers divides zero by zero here")
    theirs, ours, tokens = diffusers_scheduler(**config), _ours(config), 300
    theirs.set_timesteps(steps, mu=ours.mu(tokens) if config.get("use_dynamic_shifting") else None)
    sigmas = ours.sigmas(steps, tokens)
    assert sigmas.dtype == np.float32
    np.testing.assert_array_max_ulp(sigmas, theirs.sigmas.numpy(), maxulp=2)
    np.testing.assert_array_max_ulp(ours.timesteps(sigmas), theirs.timesteps.numpy(), maxulp=2)


def test_the_dynamic_shift_is_that_of_the_sd3_pipeline() -> None:
    pipeline = pytest.importorskip("diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3")
    for tokens in (16, 256, 300, 4096):
        expected = pipeline.calculate_shift(tokens, 256, 4096, 0.5, 1.15)
        assert _ours({}).mu(tokens) == pytest.approx(expected, abs=1e-12)


def test_the_step_is_diffusers(diffusers_scheduler) -> None:
    torch = pytest.importorskip("torch")
    theirs, ours = diffusers_scheduler(shift=3.0), _ours({"shift": 3.0})
    theirs.set_timesteps(5)
    sigmas, rng = ours.sigmas(5, 1), np.random.default_rng(0)
    latents = rng.standard_normal((2, 3, 4), dtype=np.float32)
    expected = torch.from_numpy(latents)
    for step, timestep in enumerate(theirs.timesteps):
        velocity = rng.standard_normal((2, 3, 4), dtype=np.float32)
        expected = theirs.step(torch.from_numpy(velocity), timestep, expected).prev_sample
        latents = euler_step(latents, velocity, sigmas[step], sigmas[step + 1])
        assert latents.dtype == np.float32
        np.testing.assert_allclose(latents, expected.numpy(), rtol=1e-6, atol=1e-6)


def test_euler_on_a_straight_flow_lands_on_the_data() -> None:
    # x_σ = (1 − σ)·x0 + σ·ε has the constant velocity ε − x0: any number of steps must end in x0.
    rng = np.random.default_rng(0)
    data, noise = rng.standard_normal((2, 5), dtype=np.float32)
    for steps in (1, 3, 28):
        sigmas, x = _ours({"shift": 3.0}).sigmas(steps, 1), noise
        assert sigmas[0] == 1 and sigmas[-1] == 0
        for step in range(steps):
            x = euler_step(x, noise - data, sigmas[step], sigmas[step + 1])
        np.testing.assert_allclose(x, data, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"use_karras_sigmas": True}, "use_karras_sigmas is not supported"),
        ({"stochastic_sampling": True}, "stochastic_sampling is not supported"),
        ({"invert_sigmas": True}, "invert_sigmas is not supported"),
        ({"_class_name": "DDIMScheduler"}, "DDIMScheduler is not supported"),
        ({"time_shift_type": "cubic"}, "damaged.*cubic"),
        ({"shift": "three"}, "damaged.*shift"),
    ],
)
def test_what_is_not_computed_is_refused(config: dict, problem: str) -> None:
    with pytest.raises(BundleError, match=problem):
        _ours(config)


def test_what_is_not_json_is_refused() -> None:
    for data in (b"", b"[]", b"{", b'{"shift": "\xff"}'):
        with pytest.raises(BundleError, match="damaged"):
            FlowMatchEuler.from_json(data)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_number_of_steps_out_of_range_is_refused(steps: int) -> None:
    with pytest.raises(RequestError, match=f"^{steps} steps"):
        _ours({}).sigmas(steps, 1)
