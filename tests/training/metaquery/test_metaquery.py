"""MetaQuery checkpoints: their layout, their random form at any size, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from unipic2_edge.runtime.cli import main
from unipic2_edge.training.checkpoint import Checkpoint, save_checkpoint
from unipic2_edge.training.errors import CheckpointError
from unipic2_edge.training.init import init_checkpoint
from unipic2_edge.training.layout import KONTEXT, QWEN
from unipic2_edge.training.layout import METAQUERY as LAYOUT
from unipic2_edge.training.metaquery.checkpoint import ConditionerPart, MetaqueryCheckpoint
from unipic2_edge.training.metaquery.conditioner import MetaQueryConditioner
from unipic2_edge.training.metaquery.configs import METAQUERY
from unipic2_edge.training.qwen.random_weights import RandomQwen
from unipic2_edge.training.qwen.tokenizer import qwen_tokenizer


@pytest.fixture
def copy(tiny_metaquery: MetaqueryCheckpoint, tmp_path: Path) -> MetaqueryCheckpoint:
    """A checkpoint of one's own, to damage."""
    return MetaqueryCheckpoint.open(Path(shutil.copytree(tiny_metaquery.folder, tmp_path / "copy")))


def test_the_full_size_has_the_published_numbers() -> None:
    config = METAQUERY["unipic2-metaquery"]
    with torch.device("meta"):
        qwen = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config.qwen))
        conditioner = MetaQueryConditioner(**config.conditioner)
    assert sum(parameter.numel() for parameter in qwen.parameters()) == 8_292_166_656  # as its model card has it
    # The count of the published conditioner.
    assert sum(parameter.numel() for parameter in conditioner.parameters()) == 903_509_504


def test_the_two_layouts_are_told_apart(tiny_checkpoint: Checkpoint, tiny_metaquery: MetaqueryCheckpoint) -> None:
    assert (tiny_checkpoint.variant, tiny_metaquery.variant) == ("kontext", "metaquery")
    assert Checkpoint.open(tiny_metaquery.folder).layout is LAYOUT
    assert {path.name for path in tiny_metaquery.folder.iterdir()} == {*LAYOUT.parts, "defaults.json"}


@pytest.mark.parametrize("part", LAYOUT.parts)
def test_a_missing_part_is_named(copy: MetaqueryCheckpoint, part: str) -> None:
    shutil.rmtree(copy.folder / part)
    with pytest.raises(CheckpointError, match=f"lacks {part}"):
        MetaqueryCheckpoint.open(copy.folder)
    with pytest.raises(CheckpointError, match=f"lacks {part}"):
        MetaqueryCheckpoint.open(copy.folder, partial=True).path(part)


@pytest.mark.parametrize(
    "file", [f"{QWEN}/tokenizer.json", f"{QWEN}/chat_template.jinja", "conditioner/model.safetensors"]
)
def test_the_hash_covers_every_part(copy: MetaqueryCheckpoint, file: str) -> None:
    before = copy.sha256()
    path = copy.folder / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert copy.sha256() != before


def test_the_conditioner_comes_back_as_it_was_saved(tiny_metaquery: MetaqueryCheckpoint, tmp_path: Path) -> None:
    loaded = tiny_metaquery.load_meta_conditioner()
    ConditionerPart(loaded).save_pretrained(tmp_path / "again")
    first = load_file(tiny_metaquery.folder / "conditioner" / "model.safetensors")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    configs = [json.loads((path / "config.json").read_text()) for path in (tmp_path / "again",)]
    assert configs == [tiny_metaquery.config("conditioner")]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _without(name: str) -> Callable[[Path], None]:
    def drop(path: Path) -> None:
        tensors = load_file(path)
        del tensors[name]
        save_file(tensors, path, metadata={"format": "pt"})

    return drop


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("conditioner/model.safetensors", _cut),
        ("conditioner/model.safetensors", _without("projector_3.weight")),
        ("conditioner/config.json", lambda path: path.write_text('{"surprise": 1}')),
        (f"{QWEN}/model.safetensors", _cut),
        (f"{QWEN}/model.safetensors", _without("model.norm.weight")),
        (f"{QWEN}/tokenizer.json", Path.unlink),
        (f"{QWEN}/tokenizer.json", _cut),
        (f"{QWEN}/preprocessor_config.json", Path.unlink),
        (f"{QWEN}/preprocessor_config.json", _cut),
    ],
)
def test_damage_is_refused(copy: MetaqueryCheckpoint, file: str, damage: Callable[[Path], object]) -> None:
    damage(copy.folder / file)
    with pytest.raises(CheckpointError):
        for load in (copy.load_meta_conditioner, copy.load_qwen, copy.chat, copy.sight):
            load()


def test_a_conditioner_makes_a_kontext_checkpoint_a_metaquery_one(
    tiny_checkpoint: Checkpoint, tiny_metaquery: MetaqueryCheckpoint, tmp_path: Path
) -> None:
    part = ConditionerPart(tiny_metaquery.load_meta_conditioner())
    made = save_checkpoint(tmp_path / "made", tiny_checkpoint, conditioner=part)
    assert made.variant == "metaquery"
    present = {path.name for path in made.folder.iterdir() if path.is_dir()}
    assert present == {"transformer", "vae", "scheduler", "conditioner"}
    assert KONTEXT.models[0] in present


def test_shards_are_a_seeds_and_transformers_reads_them(tmp_path: Path, tiny_metaquery: MetaqueryCheckpoint) -> None:
    config = METAQUERY["tiny-metaquery"]
    tokenizer = qwen_tokenizer(["a red ring"], config.special_start, 64)
    limit = 1 << 20
    for name, shard_bytes in (("whole", 1 << 30), ("cut", limit)):
        RandomQwen(config, tokenizer, torch.bfloat16, 3, shard_bytes).save_pretrained(tmp_path / name)
    files = sorted((tmp_path / "cut").glob("*.safetensors"))
    assert len(files) > 1
    assert max(path.stat().st_size for path in files) < limit + 8192  # and its header
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    cut = {name: tensor for path in files for name, tensor in load_file(path).items()}
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "cut", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(model.lm_head.weight.bfloat16(), whole["lm_head.weight"])


def test_names_are_those_that_transformers_writes(tiny_metaquery: MetaqueryCheckpoint, tmp_path: Path) -> None:
    tiny_metaquery.load_qwen().save_pretrained(tmp_path)
    theirs = load_file(tmp_path / "model.safetensors")
    ours = load_file(tiny_metaquery.folder / QWEN / "model.safetensors")
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: tensor.shape for n, tensor in theirs.items()}


def test_generation_ends_where_the_published_model_ends(tiny_metaquery: MetaqueryCheckpoint) -> None:
    model, chat = tiny_metaquery.load_qwen(), tiny_metaquery.chat()
    assert model.generation_config.eos_token_id == [chat.end_id, chat.pad_id]
    assert model.generation_config.pad_token_id == chat.pad_id


def test_chosen_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["init", "tiny-metaquery", str(tmp_path / "made"), "--components", "conditioner,vae", "--json"]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["components"] == ["vae", "conditioner"]
    made = MetaqueryCheckpoint.open(tmp_path / "made", partial=True)
    assert (made.variant, made.has(QWEN)) == ("metaquery", False)
    assert made.config(QWEN)["model_type"] == "qwen2_5_vl"
    assert made.chat().end_id == METAQUERY["tiny-metaquery"].special_start + 2
    assert main(["init", "tiny-metaquery", str(tmp_path / "other"), "--components", "text_encoder"]) == 2


def test_a_conditioner_that_is_left_out_leaves_its_config(tmp_path: Path) -> None:
    made = init_checkpoint("tiny-metaquery", tmp_path / "made", ("vae",))
    assert made.variant == "metaquery"
    assert made.config("conditioner")["num_queries"] == 8
    assert not made.has("conditioner")


def test_projectors_of_a_random_checkpoint_are_heard(tiny_metaquery: MetaqueryCheckpoint) -> None:
    with safe_open(tiny_metaquery.folder / "conditioner" / "model.safetensors", "pt") as tensors:
        assert float(tensors.get_tensor("projector_3.weight").std()) > 0.01
