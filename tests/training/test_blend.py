"""`blend`: the weighted mean of two denoisers, in a checkpoint that is whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unipic2_edge.runtime.cli import main
from unipic2_edge.training.checkpoint import Checkpoint, save_checkpoint
from unipic2_edge.training.init import init_checkpoint
from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    for seed in (1, 2):
        init_checkpoint("tiny-kontext", folder / str(seed), None, seed, torch.float32)
    return folder / "1", folder / "2"


def test_every_weight_is_the_mean_and_the_rest_is_the_seconds(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert main(["blend", str(pair[0]), str(pair[1]), str(tmp_path / "made"), "--share", "0.25"]) == 0
    made = Checkpoint.open(tmp_path / "made")
    first, second, mean = (
        Checkpoint.open(folder).load_transformer().state_dict() for folder in (*pair, tmp_path / "made")
    )
    for name, value in mean.items():
        torch.testing.assert_close(value, 0.75 * first[name] + 0.25 * second[name])
    assert made.defaults() == Checkpoint.open(pair[1]).defaults()
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (made.folder / vae).read_bytes() == (pair[1] / vae).read_bytes()


def test_the_ends_are_the_checkpoints_themselves(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for end, share in enumerate(("0", "1")):
        assert main(["blend", str(pair[0]), str(pair[1]), str(tmp_path / share), "--share", share]) == 0
        folders = (tmp_path / share, pair[end])
        made, given = (Checkpoint.open(folder).load_transformer().state_dict() for folder in folders)
        assert all(torch.equal(made[name], given[name]) for name in given)


def test_what_was_learned_since_an_ancestor_is_added_to_another_descendant(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    origin = tmp_path / "origin"
    init_checkpoint("tiny-kontext", origin, None, 3, torch.float32)
    words = ["blend", str(pair[0]), str(pair[1]), str(tmp_path / "made"), "--since", str(origin)]
    assert main([*words, "--dtype", "float16"]) == 0
    first, second, before, made = (
        Checkpoint.open(folder).load_transformer().state_dict() for folder in (*pair, origin, tmp_path / "made")
    )
    for name, value in made.items():
        torch.testing.assert_close(value, (first[name] + second[name] - before[name]).half().float(), atol=2e-3, rtol=0)
    stored = tmp_path / "made" / "transformer" / "diffusion_pytorch_model.safetensors"
    assert stored.stat().st_size < 0.6 * (pair[0] / "transformer" / stored.name).stat().st_size


def test_bad_input_writes_nothing(
    pair: tuple[Path, Path], tiny_metaquery: MetaqueryCheckpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = map(str, pair)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    for words, said in (
        ([first, second, str(tmp_path / "made"), "--share", "1.5"], "a share of 1.5"),
        ([first, str(tmp_path / "missing"), str(tmp_path / "made")], "missing"),
        ([first, str(tiny_metaquery.folder), str(tmp_path / "made")], "is no Kontext checkpoint"),
        ([first, second, str(tmp_path / "full")], "not empty"),
    ):
        assert main(["blend", *words]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
    assert (tmp_path / "full" / "file").read_text() == "kept"


def test_weights_that_a_dtype_cannot_hold_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Checkpoint.open(pair[0])
    denoiser = checkpoint.load_transformer()
    with torch.no_grad():
        denoiser.proj_out.bias[0] = 1e6
    large = str(save_checkpoint(tmp_path / "large", checkpoint, transformer=denoiser).folder)
    words = ["blend", large, large, str(tmp_path / "made")]
    assert main([*words, "--dtype", "float16"]) == 2
    assert "finite in torch.float16" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
    assert main([*words, "--dtype", "bfloat16"]) == 0


def test_what_is_written_does_not_tell_where_it_was_read(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert main(["blend", str(pair[0]), str(pair[1]), str(tmp_path / "made")]) == 0
    assert "_name_or_path" not in (tmp_path / "made" / "transformer" / "config.json").read_text()
