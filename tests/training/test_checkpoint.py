"""Opening checkpoints: whole ones load, and every kind of damage is named before anything is computed from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from safetensors.torch import load_file, save_file

from unipic2_edge.training.checkpoint import Checkpoint, position_table, save_checkpoint
from unipic2_edge.training.configs import KONTEXT
from unipic2_edge.training.errors import CheckpointError, OutputError, WorkError
from unipic2_edge.training.layout import MODELS, PARTS

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Checkpoint:
    """A checkpoint of one's own, to damage."""
    return Checkpoint.open(Path(shutil.copytree(tiny_checkpoint.folder, tmp_path / "copy")))


def test_the_layout_is_diffusers(tiny_checkpoint: Checkpoint) -> None:
    index = json.loads((tiny_checkpoint.folder / "model_index.json").read_text())
    assert set(index) == {"_class_name", *PARTS}
    assert index["transformer"] == ["diffusers", "SD3Transformer2DModel"]
    assert not list(tiny_checkpoint.folder.rglob("*.bin"))


def test_no_folder_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint folder"):
        Checkpoint.open(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(copy: Checkpoint, part: str) -> None:
    shutil.rmtree(copy.folder / part)
    with pytest.raises(CheckpointError, match=f"lacks {part}"):
        Checkpoint.open(copy.folder)
    partial = Checkpoint.open(copy.folder, partial=True)
    with pytest.raises(CheckpointError, match=f"lacks {part}"):
        partial.path(part)


def test_cut_off_weights_are_refused(copy: Checkpoint) -> None:
    path = copy.folder / TRANSFORMER
    path.write_bytes(path.read_bytes()[:1000])
    for read in (copy.load_transformer, copy.position_table):
        with pytest.raises(CheckpointError, match=r"transformer of .* cannot be loaded"):
            read()


@pytest.mark.parametrize(
    ("part", "file", "tensor"),
    [
        ("transformer", TRANSFORMER, "transformer_blocks.0.attn.to_q.weight"),
        ("text_encoder", "text_encoder/model.safetensors", "text_projection.weight"),
        ("text_encoder_3", "text_encoder_3/model.safetensors", "encoder.final_layer_norm.weight"),
        ("vae", "vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.weight"),
    ],
)
def test_a_missing_tensor_is_refused_and_not_drawn_at_random(
    copy: Checkpoint, part: str, file: str, tensor: str
) -> None:
    tensors = load_file(copy.folder / file)
    del tensors[tensor]
    save_file(tensors, copy.folder / file, {"format": "pt"})
    load = {"transformer": copy.load_transformer, "vae": copy.load_vae}.get(part, lambda: copy.load_text_encoder(part))
    with pytest.raises(CheckpointError, match=rf"{part} of .* lacks 1 of its tensors, {tensor}"):
        load()


def test_a_transformer_without_its_position_table_gets_diffusers_own(copy: Checkpoint) -> None:
    whole, table = copy.load_transformer(), copy.position_table()
    tensors = load_file(copy.folder / TRANSFORMER)
    del tensors["pos_embed.pos_embed"]
    save_file(tensors, copy.folder / TRANSFORMER, {"format": "pt"})
    again = copy.load_transformer()
    assert torch.allclose(again.pos_embed.pos_embed, whole.pos_embed.pos_embed, atol=1e-6)
    assert torch.allclose(copy.position_table(), table, atol=1e-6)


@pytest.mark.parametrize("name", ["shapes-kontext", "tiny-kontext"])
def test_the_position_table_is_diffusers_to_the_bit(name: str) -> None:
    config = KONTEXT[name].transformer | {"pos_embed_max_size": 48}
    width = config["num_attention_heads"] * config["attention_head_dim"]
    table = get_2d_sincos_pos_embed(width, 48, base_size=config["sample_size"] // config["patch_size"])
    assert torch.equal(position_table(config).flatten(0, 1), table.float())


@pytest.mark.parametrize("file", ["transformer/config.json", "defaults.json"])
def test_damaged_json_is_refused(copy: Checkpoint, file: str) -> None:
    (copy.folder / file).write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        copy.defaults() if file == "defaults.json" else copy.config("transformer")


def test_the_hash_sees_every_weight_and_config(copy: Checkpoint) -> None:
    before = copy.sha256()
    assert before == copy.sha256()
    path = copy.folder / TRANSFORMER
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    changed = copy.sha256()
    assert changed != before
    scheduler = copy.folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("3.0", "2.0"))
    assert copy.sha256() not in (before, changed)


def test_parts_are_replaced_and_the_rest_is_kept(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    transformer = tiny_checkpoint.load_transformer()
    with torch.no_grad():
        transformer.proj_out.bias += 1
    made = save_checkpoint(tmp_path / "new", tiny_checkpoint, transformer=transformer)
    assert torch.equal(made.load_transformer().proj_out.bias, transformer.proj_out.bias)
    assert made.defaults() == tiny_checkpoint.defaults()
    kept = "vae/diffusion_pytorch_model.safetensors"
    assert (made.folder / kept).read_bytes() == (tiny_checkpoint.folder / kept).read_bytes()
    assert all(made.has(part) for part in MODELS)


def test_a_folder_that_stands_is_not_touched(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        save_checkpoint(tmp_path, tiny_checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


class _Failing:
    """A part whose saving fails as a full disk does."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("half")
        raise self.error


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="no space left"):
        save_checkpoint(tmp_path / "made", vae=_Failing(OSError(28, "No space left on device")))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "made", vae=_Failing(KeyboardInterrupt()))
    assert list(tmp_path.iterdir()) == []
