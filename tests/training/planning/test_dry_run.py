"""Dry runs count what real models have and do, and take full-size recipes in a small process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.errors import RecipeError
from unipic2_edge.training.loop.throughput import Throughput, measured_ceiling
from unipic2_edge.training.planning.dry_run import Hardware, dry_run, planned_flops
from unipic2_edge.training.planning.footprint import footprint
from unipic2_edge.training.recipe import load_recipe


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16, bias=False), nn.Linear(16, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


def test_a_footprint_is_what_one_reckons_by_hand() -> None:
    with torch.device("meta"):
        model, x = _Two(), torch.empty(32, 8)
    found = footprint([model], lambda: model(x))
    forward = 2 * 32 * (8 * 16 + 16 * 4)
    assert found.flops == 2 * forward + 2 * 32 * 16 * 4  # the input needs no gradient
    assert found.saved == 4 * 32 * (8 + 16)  # the input, and what comes out of the relu
    assert found.checkpointed == found.saved  # nothing here is a block


def test_the_tiny_denoisers_operations_are_those_of_a_real_step(tiny_checkpoint: Checkpoint) -> None:
    sizes = ["data.sizes=[[64,64]]", "data.size_weights=[1]"]
    recipe = load_recipe(
        "shapes-kontext",
        ["config=tiny-kontext", "batch_size=2", "gradient_accumulation=1", "data.edit_share=0", *sizes],
    )
    model = tiny_checkpoint.load_transformer().train()
    latents = torch.randn(2, 8, 16, 16)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        told = torch.randn(2, 33, 192), torch.randn(2, 192)
        model(latents, *told, torch.ones(2), return_dict=False)[0].sum().backward()
    attention = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]  # six products; fused ones do a seventh
    assert planned_flops(recipe) == counter.get_total_flops() + attention / 6


@pytest.mark.slow
def test_the_nine_billion_recipe_is_reckoned_in_seconds_and_little_memory(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from unipic2_edge.runtime.cli import main; code = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    words = ["train", "metaquery-joint", "--dry-run", "--gpus", "8", "--json", "--set", "batch_size=1"]
    words += ["--set", "data.sizes=[[512,512]]", "--set", "data.size_weights=[1]"]
    made = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout.splitlines()[-1])
    parts = {part["name"]: part for part in found["parts"]}
    assert parts["transformer"] | {"name": ""} == {
        "name": "",
        "parameters": 2_243_171_520,
        "trained": 2_243_171_520,
        "dtype": "float32",
    }
    assert parts["conditioner"]["trained"] == 903_509_504
    assert parts["qwen2_5_vl"]["parameters"] == 8_292_166_656
    assert parts["qwen2_5_vl"]["trained"] == parts["vae"]["trained"] == 0
    assert found["memory_gb_sharded"]["optimizer"] == pytest.approx(8 * 3_146_681_024 / 8 / 1e9)
    assert found["total_gb_sharded"] < found["total_gb"] / 2
    assert int(made.stderr.splitlines()[-1]) < 2_000_000  # KB
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    ["shapes-vae", "shapes-text", "shapes-kontext", "shapes-metaquery-joint", "shapes-kontext-4step", "shapes-edit-rl"],
)
def test_every_stage_of_the_shapes_world_is_drawn_up(name: str) -> None:
    small = ["batch_size=2", "data.sizes=[[64,64]]", "data.size_weights=[1]"]
    found = dry_run(load_recipe(name, small), Hardware(gpus=2))
    assert sum(part.trained for part in found.parts) > 0
    assert found.tflop_per_step > 0
    assert found.whole.total(False) > found.sharded.total(False) > 0
    assert found.whole.activations >= found.whole.activations_checkpointed > 0
    assert any("together" in line for line in found.lines())


def test_a_config_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match="no config nonsense"):
        dry_run(load_recipe("shapes-kontext", ["config=nonsense"]), Hardware())


def test_throughput_adds_up() -> None:
    device = torch.device("cpu")
    pace = Throughput(8, 2, lambda: 1e6, 0.001, device, torch.float32)
    assert pace.report() == {}
    for _ in range(2):
        with pace.step():
            torch.randn(200, 200) @ torch.randn(200, 200)
        pace.tokens(100)
    found = pace.report()
    assert found["samples_per_second"] == pytest.approx(8 / found["seconds_per_step"])
    assert found["tokens_per_second"] == pytest.approx(2 * 100 / found["seconds_per_step"])
    assert found["mfu"] == pytest.approx(1e6 / found["seconds_per_step"] / 1e9)
    assert found["tflop_per_step"] == pytest.approx(2e-6)
    assert measured_ceiling(device, torch.float32) > 1e9
