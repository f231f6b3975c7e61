"""Random checkpoints: every size in the published layout, any dtype, parts by choice, activations finite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unipic2_edge.runtime.cli import main
from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.configs import KONTEXT
from unipic2_edge.training.init import init_checkpoint
from unipic2_edge.training.layout import MODELS
from unipic2_edge.training.transformer import KontextTransformer


def test_the_full_size_has_the_published_numbers() -> None:
    with torch.device("meta"):
        transformer = KontextTransformer(**KONTEXT["unipic2-sd3.5m-kontext"].transformer)
    assert sum(parameter.numel() for parameter in transformer.parameters()) == 2_243_171_520
    assert transformer.pos_embed.pos_embed.numel() == 226_492_416


def test_a_seed_decides_every_weight(tmp_path: Path) -> None:
    weights = [
        load_file(
            init_checkpoint("tiny-kontext", tmp_path / name, ("transformer",), seed).folder / "transformer" / file
        )
        for file in ("diffusion_pytorch_model.safetensors",)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    same, other = [], []
    for name in weights[0]:
        same.append(torch.equal(weights[0][name], weights[1][name]))
        other.append(torch.equal(weights[0][name], weights[2][name]))
    assert all(same)
    assert sum(other) == 1  # the position table alone


def test_layers_differ(tiny_checkpoint: Checkpoint) -> None:
    # Equal tensors would be merged in a compiled engine, and its size would lie.
    state = tiny_checkpoint.load_transformer().state_dict()
    first, second = (state[f"transformer_blocks.{layer}.attn.to_q.weight"] for layer in (0, 1))
    assert not torch.equal(first, second)


@torch.no_grad()
def test_activations_stay_finite_and_of_order_one(tiny_checkpoint: Checkpoint) -> None:
    ids = tiny_checkpoint.tokenizers()(["a red circle and a blue square"])
    context, pooled = tiny_checkpoint.load_conditioner()(ids)
    latents = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    velocity = tiny_checkpoint.load_transformer()(latents, context, pooled, torch.tensor([500.0])).sample
    image = tiny_checkpoint.load_vae().decode(latents).sample
    for tensor in (context, pooled, velocity, image):
        assert torch.isfinite(tensor).all()
        assert 0.05 < float(tensor.std()) < 20


def test_chosen_parts_and_dtype(tmp_path: Path) -> None:
    made = init_checkpoint("tiny-kontext", tmp_path / "part", ("transformer", "text_encoder_3"), dtype=torch.bfloat16)
    assert [part for part in MODELS if made.has(part)] == ["transformer", "text_encoder_3"]
    weights = load_file(made.folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert "pos_embed.pos_embed" in weights  # as in the published files
    # The other parts' configs are there, so that a bundle can describe the latent space.
    assert made.config("vae")["latent_channels"] == 8
    assert made.tokenizers().lengths == [17, 17, 16]
    index = json.loads((made.folder / "model_index.json").read_text())
    assert "vae" not in index


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "made"
    words = ["init", "tiny-kontext", str(folder), "--components", "text_encoder", "--dtype", "float16", "--json"]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["ok"], answer["components"]) == (True, ["text_encoder"])
    assert Checkpoint.open(folder, partial=True).has("text_encoder")
    assert main(words) == 2
    assert "not empty" in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["problem"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["huge-kontext", "made"], "there is no config 'huge-kontext'"),
        (["tiny-kontext", "made", "--components", "ears"], "there is no component 'ears'"),
        (["tiny-kontext", "made", "--dtype", "int8"], "invalid choice"),
    ],
)
def test_mistakes(
    words: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", *words, "--json"]) == 2
    assert problem in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["problem"]
    assert list(tmp_path.iterdir()) == []
