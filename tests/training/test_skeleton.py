"""A skeleton filled module by module holds what loading the whole model gives, and refuses what loading refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.errors import CheckpointError
from unipic2_edge.training.skeleton import Skeleton

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
T5 = "text_encoder_3/model.safetensors"


@pytest.fixture
def copy(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Checkpoint:
    """A checkpoint of one's own, to change."""
    return Checkpoint.open(Path(shutil.copytree(tiny_checkpoint.folder, tmp_path / "copy")))


def _equal(made: torch.nn.Module, expected: torch.nn.Module) -> None:
    state = expected.state_dict()
    parameters = dict(made.named_parameters(remove_duplicate=False))
    assert set(parameters) == set(dict(expected.named_parameters(remove_duplicate=False)))
    for name, parameter in parameters.items():
        assert parameter.dtype == state[name].dtype
        assert torch.equal(parameter, state[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_filled_with_what_loading_gives(tiny_checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    whole, skeleton = tiny_checkpoint.load_transformer(dtype), tiny_checkpoint.transformer_skeleton(dtype)
    assert all(parameter.is_meta for parameter in skeleton.model.parameters())
    for name in ("transformer_blocks", "time_text_embed", "context_embedder", "norm_out", "proj_out"):
        filled = skeleton.fill(getattr(skeleton.model, name))
        _equal(filled, getattr(whole, name))
        assert not filled.training
    assert all(parameter.is_meta for parameter in skeleton.model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_t5_too(tiny_checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    whole, skeleton = tiny_checkpoint.load_text_encoder("text_encoder_3", dtype), tiny_checkpoint.t5_skeleton(dtype)
    _equal(skeleton.fill(skeleton.model.encoder), whole.encoder)


def test_a_type_changed_afterwards_is_kept(tiny_checkpoint: Checkpoint) -> None:
    """Weights are rounded as the model was made, then widened, as a loaded model's would be."""
    whole, skeleton = (
        tiny_checkpoint.load_transformer(torch.bfloat16),
        tiny_checkpoint.transformer_skeleton(torch.bfloat16),
    )
    _equal(skeleton.fill(skeleton.model.proj_out.float()), whole.proj_out.float())


def test_modules_that_are_left_out_stay_without_memory(tiny_checkpoint: Checkpoint) -> None:
    skeleton = tiny_checkpoint.transformer_skeleton()
    block = skeleton.model.transformer_blocks[0]
    filled = skeleton.fill(block, without=(block.norm1, block.attn.to_q))
    empty = {name for name, parameter in filled.named_parameters() if parameter.is_meta}
    assert {name.split(".")[0] for name in empty} == {"norm1", "attn"}
    assert {name for name in empty if name.startswith("attn")} == {"attn.to_q.weight", "attn.to_q.bias"}


def _shard(file: Path) -> list[Path]:
    """Split a weights file into three shards with an index, as the libraries do for large models."""
    tensors = load_file(file)
    names = sorted(tensors)
    stem = file.name.removesuffix(".safetensors")
    shards = [file.with_name(f"{stem}-{index + 1:05}-of-00003.safetensors") for index in range(3)]
    weight_map = {name: shards[index % 3].name for index, name in enumerate(names)}
    for shard in shards:
        save_file({name: tensors[name] for name in names if weight_map[name] == shard.name}, shard, {"format": "pt"})
    file.with_name(f"{file.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    file.unlink()
    return shards


def _skeleton(checkpoint: Checkpoint, file: str) -> Skeleton:
    return checkpoint.transformer_skeleton() if file == TRANSFORMER else checkpoint.t5_skeleton()


@pytest.mark.parametrize("file", [TRANSFORMER, T5])
def test_shards_are_one_model(copy: Checkpoint, tiny_checkpoint: Checkpoint, file: str) -> None:
    whole = _skeleton(tiny_checkpoint, file)
    _shard(copy.folder / file)
    sharded = _skeleton(copy, file)
    _equal(sharded.fill(sharded.model), whole.fill(whole.model))


@pytest.mark.parametrize("file", [TRANSFORMER, T5])
def test_a_missing_shard_is_named(copy: Checkpoint, file: str) -> None:
    shard = _shard(copy.folder / file)[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"lacks its shard {shard.name}"):
        _skeleton(copy, file)


def test_a_shard_outside_the_folder_is_not_opened(copy: Checkpoint) -> None:
    shard = _shard(copy.folder / T5)[0]
    shard.replace(copy.folder / shard.name)
    index = copy.folder / f"{T5}.index.json"
    index.write_text(index.read_text().replace(shard.name, f"../{shard.name}"))
    with pytest.raises(CheckpointError, match="lacks its shard"):
        copy.t5_skeleton()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 1}'])
def test_a_damaged_index_is_refused(copy: Checkpoint, content: str) -> None:
    _shard(copy.folder / T5)
    (copy.folder / f"{T5}.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="nor a readable"):
        copy.t5_skeleton()


def test_a_variant_beside_the_weights_is_not_read(copy: Checkpoint) -> None:
    variant = (copy.folder / T5).with_name("model.fp16.safetensors")
    save_file({name: tensor * 0 for name, tensor in load_file(copy.folder / T5).items()}, variant, {"format": "pt"})
    skeleton = copy.t5_skeleton()
    assert skeleton.fill(skeleton.model.encoder.final_layer_norm).weight.any()


def test_tied_weights_are_found_under_either_name(copy: Checkpoint, tiny_checkpoint: Checkpoint) -> None:
    tensors = load_file(copy.folder / T5)
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    save_file(tensors, copy.folder / T5, {"format": "pt"})
    skeleton = copy.t5_skeleton()
    filled = skeleton.fill(skeleton.model.encoder.embed_tokens)
    assert torch.equal(filled.weight, tensors["encoder.embed_tokens.weight"])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _without(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        tensors = load_file(path)
        del tensors[name]
        save_file(tensors, path, {"format": "pt"})

    return change


def _narrow(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        tensors = load_file(path)
        tensors[name] = tensors[name][:-1].contiguous()
        save_file(tensors, path, {"format": "pt"})

    return change


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        (TRANSFORMER, _cut, r"transformer of .* cannot be loaded"),
        (T5, _cut, r"text_encoder_3 of .* cannot be loaded"),
        (TRANSFORMER, _without("proj_out.bias"), r"transformer of .* lacks 1 of its tensors, proj_out.bias"),
        (T5, _without("shared.weight"), r"text_encoder_3 of .* lacks 1 of its tensors, shared.weight"),
        (TRANSFORMER, _narrow("proj_out.bias"), r"cannot be loaded: proj_out.bias has the shape"),
    ],
)
def test_damage_is_named_before_anything_is_filled(
    copy: Checkpoint, file: str, change: Callable[[Path], None], problem: str
) -> None:
    change(copy.folder / file)
    with pytest.raises(CheckpointError, match=problem):
        _skeleton(copy, file)


def test_a_config_of_another_model_is_refused(copy: Checkpoint) -> None:
    config = copy.folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_layers": "many"}))
    with pytest.raises(CheckpointError, match=r"transformer of .* cannot be loaded"):
        copy.transformer_skeleton()


def test_a_file_that_vanishes_is_a_users_error(copy: Checkpoint) -> None:
    skeleton = copy.t5_skeleton()
    (copy.folder / T5).unlink()
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        skeleton.fill(skeleton.model.encoder.final_layer_norm)
