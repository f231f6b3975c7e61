"""LoRAs in peft's and diffusers' formats change the denoiser as those libraries themselves do; all else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import SD3LoraLoaderMixin
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.errors import RequestError
from unipic2_edge.training.lora import parse_lora

LAYERS = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "add_q_proj",
    "ff.net.0.proj",
    "norm1.linear",
    "pos_embed.proj",
    "proj_out",
]


def _random(model: nn.Module) -> None:
    """A trained LoRA's look: none of its factors zero."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05


def _difference(made: nn.Module, expected: nn.Module, base: nn.Module) -> tuple[float, float]:
    """Largest difference from what is expected, and the largest change that the LoRA made."""
    pairs = zip(*([tensor.detach() for tensor in model.parameters()] for model in (made, expected, base)), strict=True)
    worst = [(float((a - b).abs().max()), float((b - c).abs().max())) for a, b, c in pairs]
    return max(error for error, _ in worst), max(change for _, change in worst)


@pytest.fixture
def peft_lora(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """Saves a LoRA with peft and merges it with peft."""

    def make(**settings: Any) -> tuple[Path, Any]:
        model = tiny_checkpoint.load_transformer()
        tuned = get_peft_model(model, LoraConfig(target_modules=LAYERS, **settings))
        _random(tuned)
        tuned.save_pretrained(tmp_path / "lora")
        return tmp_path / "lora", tuned.merge_and_unload()

    return make


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 8},
        {"r": 4, "lora_alpha": 3, "use_rslora": True},
        {
            "r": 2,
            "lora_alpha": 2,
            "rank_pattern": {"to_q": 6, "transformer_blocks.0.attn.to_k": 3},
            "alpha_pattern": {"to_q": 1, "transformer_blocks.0.attn.to_k": 9},
        },
    ],
)
def test_it_changes_the_denoiser_as_peft_does(
    settings: dict[str, Any], tiny_checkpoint: Checkpoint, peft_lora: Callable[..., tuple[Path, Any]]
) -> None:
    folder, expected = peft_lora(**settings)
    for path in (folder, folder / "adapter_model.safetensors"):
        checkpoint = tiny_checkpoint.with_loras([(path, 1.0)])
        error, change = _difference(checkpoint.load_transformer(), expected, tiny_checkpoint.load_transformer())
        assert error < 1e-6
        assert change > 1e-3
        skeleton = checkpoint.transformer_skeleton()
        filled = skeleton.fill(skeleton.model)
        assert _difference(filled, expected, tiny_checkpoint.load_transformer())[0] < 1e-6


def _diffusers_tensors(tiny_checkpoint: Checkpoint) -> dict[str, Tensor]:
    model = tiny_checkpoint.load_transformer()
    model.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=LAYERS))
    _random(model)
    return {f"transformer.{name}": tensor.contiguous() for name, tensor in get_peft_model_state_dict(model).items()}


@pytest.mark.parametrize("spelling", ["lora_A", "lora.down"])
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_it_changes_the_denoiser_as_diffusers_does(
    spelling: str, alpha: float | None, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    tensors = _diffusers_tensors(tiny_checkpoint)
    names = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    alphas = {} if alpha is None else {f"{name}.alpha": torch.tensor(alpha) for name in names}
    expected = tiny_checkpoint.load_transformer()
    expected.load_lora_adapter(
        dict(tensors),
        network_alphas={name: float(value) for name, value in alphas.items()} or None,
        prefix="transformer",
    )
    expected.fuse_lora(lora_scale=0.5)
    expected.unload_lora()
    other = {"lora_A": "lora.down", "lora_B": "lora.up"}
    if spelling == "lora.down":
        for old, new in other.items():
            tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    save_file(tensors | alphas, tmp_path / "style.safetensors")
    checkpoint = tiny_checkpoint.with_loras([(tmp_path / "style.safetensors", 0.5)])
    error, change = _difference(checkpoint.load_transformer(), expected, tiny_checkpoint.load_transformer())
    assert error < 1e-6
    assert change > 1e-3


def test_settings_in_the_files_metadata_count(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """As diffusers' own pipelines take them: alpha from the header, here four times the rank."""
    model = tiny_checkpoint.load_transformer()
    model.add_adapter(LoraConfig(r=4, lora_alpha=16, target_modules=["to_q"]))
    _random(model)
    SD3LoraLoaderMixin.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(model),
        transformer_lora_adapter_metadata={"r": 4, "lora_alpha": 16, "target_modules": ["to_q"]},
    )
    tensors, metadata = SD3LoraLoaderMixin.lora_state_dict(tmp_path, return_lora_metadata=True)
    expected = tiny_checkpoint.load_transformer()
    SD3LoraLoaderMixin.load_lora_into_transformer(tensors, expected, metadata=metadata)
    expected.fuse_lora()
    expected.unload_lora()
    made = tiny_checkpoint.with_loras([(tmp_path / "pytorch_lora_weights.safetensors", 1.0)]).load_transformer()
    error, change = _difference(made, expected, tiny_checkpoint.load_transformer())
    assert error < 1e-6
    assert change > 1e-3


def test_several_add_up_and_half_precision_is_merged_in_float32(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_file(_diffusers_tensors(tiny_checkpoint), tmp_path / "style.safetensors")
    twice = tiny_checkpoint.with_loras([(tmp_path / "style.safetensors", scale) for scale in (0.75, -0.25)])
    once = tiny_checkpoint.with_loras([(tmp_path / "style.safetensors", 0.5)])
    assert _difference(twice.load_transformer(), once.load_transformer(), once.load_transformer())[0] < 1e-6
    name = "transformer_blocks.0.attn.to_q.weight"
    whole, half = (once.load_transformer(dtype).state_dict()[name] for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(half, whole.bfloat16())


def test_the_hash_is_of_the_lora_too(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    tensors = _diffusers_tensors(tiny_checkpoint)
    save_file(tensors, tmp_path / "style.safetensors")
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, tmp_path / "other.safetensors")
    hashes = {
        tiny_checkpoint.with_loras(asked).sha256()
        for asked in (
            [],
            [(tmp_path / "style.safetensors", 1.0)],
            [(tmp_path / "style.safetensors", 0.5)],
            [(tmp_path / "other.safetensors", 1.0)],
        )
    }
    assert len(hashes) == 4
    assert tiny_checkpoint.sha256() in hashes


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tensors: {name.replace("to_q", "to_w"): t for name, t in tensors.items()}, "has no such layer"),
        (lambda tensors: {name: t[..., :-1].contiguous() for name, t in tensors.items()}, "of another model"),
        (lambda tensors: {name: t * float("nan") for name, t in tensors.items()}, "NaN or infinity"),
        (lambda tensors: {name: t for name, t in tensors.items() if "lora_B" not in name}, "half of a change"),
        (lambda tensors: {f"lora_unet_{index}": t for index, t in enumerate(tensors.values())}, "kohya"),
        (lambda tensors: tensors | {"text_encoder.layer.lora_A.weight": torch.ones(2, 2)}, "text encoder"),
        (lambda tensors: tensors | {"transformer.proj_out.lora_magnitude_vector": torch.ones(2)}, "no part of a plain"),
        (lambda tensors: {}, "holds no LoRA"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], problem: str, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    save_file(change(_diffusers_tensors(tiny_checkpoint)), tmp_path / "style.safetensors")
    with pytest.raises(RequestError, match=problem) as raised:
        tiny_checkpoint.with_loras([(tmp_path / "style.safetensors", 1.0)])
    assert raised.value.mend


@pytest.mark.parametrize(
    ("name", "scale", "problem"),
    [
        ("absent.safetensors", 1.0, "there is no LoRA"),
        ("pickled.bin", 1.0, "pickled"),
        ("folder", 1.0, "pickled"),
        ("text.safetensors", 1.0, "cannot be read as safetensors"),
        ("text.safetensors", float("inf"), "no scale"),
    ],
)
def test_files_that_are_none_are_refused(
    name: str, scale: float, problem: str, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    (tmp_path / "pickled.bin").write_bytes(b"x")
    (tmp_path / "text.safetensors").write_text("no safetensors")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(RequestError, match=problem):
        tiny_checkpoint.with_loras([(tmp_path / name, scale)])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (None, "lacks adapter_config.json"),
        ({"use_dora": True}, "use_dora"),
        ({"lora_alpha": "much"}, "settings of"),
        ({"alpha_pattern": {"(": 1}}, "settings of"),
        ([], "settings of"),
    ],
)
def test_settings_of_another_formula_are_refused(
    settings: object, problem: str, tiny_checkpoint: Checkpoint, peft_lora: Callable[..., tuple[Path, Any]]
) -> None:
    folder, _ = peft_lora(r=2)
    (folder / "adapter_config.json").unlink()
    if settings is not None:
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(RequestError, match=problem):
        tiny_checkpoint.with_loras([(folder, 1.0)])


def test_a_scale_stands_after_the_last_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:2").write_text("")
    Path("b").write_text("")
    assert parse_lora("style.safetensors") == (Path("style.safetensors"), 1.0)
    assert parse_lora("style.safetensors:0.8") == (Path("style.safetensors"), 0.8)
    assert parse_lora("style.safetensors:-1e-1") == (Path("style.safetensors"), -0.1)
    assert parse_lora("a:2") == (Path("a:2"), 1.0)
    assert parse_lora(r"C:\loras\style.safetensors") == (Path(r"C:\loras\style.safetensors"), 1.0)
    with pytest.raises(RequestError, match="'much' is no scale"):
        parse_lora("b:much")


def test_the_file_is_not_held(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A LoRA is opened anew for each layer: what is gone meanwhile is the user's to mend."""
    save_file(_diffusers_tensors(tiny_checkpoint), tmp_path / "style.safetensors")
    assert len(load_file(tmp_path / "style.safetensors")) > 0
    checkpoint = tiny_checkpoint.with_loras([(tmp_path / "style.safetensors", 1.0)])
    (tmp_path / "style.safetensors").unlink()
    with pytest.raises(RequestError, match="cannot be read"):
        checkpoint.load_transformer()
