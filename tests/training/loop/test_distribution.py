"""Several processes train as one would on their batches together; sharded ones leave a plain checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.loop.share import Share
from unipic2_edge.training.recipe import RECIPES

from ..forked_training import FSDP2, run, settings


def _values(output: Path, name: str) -> list[float]:
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [record[name] for record in records if name in record]


def _losses(output: Path) -> list[float]:
    return _values(output, "loss")


def _weights(output: Path) -> dict[str, torch.Tensor]:
    return dict(Checkpoint.open(output / "checkpoint").load_transformer().state_dict())


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_doubled_batch(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    twenty = {"schedule__steps": 20, "logging__state_every": 0}
    run(tmp_path / "one", settings(tiny_checkpoint.folder, batch_size=4, **twenty))
    run(tmp_path / "two", settings(tiny_checkpoint.folder, **twenty), world=2)
    one, two = _losses(tmp_path / "one"), _losses(tmp_path / "two")
    assert len(one) == 20
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) <= 1e-5
    assert len(set(one)) == 20


@pytest.mark.slow
def test_shards_train_resume_and_leave_a_checkpoint_that_one_process_loads(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    def options(steps: int, **changes: object) -> list[str]:
        often = {"logging__state_every": 2, "logging__samples_every": 2}
        return settings(tiny_checkpoint.folder, schedule__steps=steps, **often, **changes)

    run(tmp_path / "one", options(6, batch_size=4))
    run(tmp_path / "sharded", options(6), world=2, extra=FSDP2)
    run(tmp_path / "resumed", options(3), world=2, extra=FSDP2)
    (state,) = (tmp_path / "resumed" / "state").glob("step-0000003")
    assert len(list((state / "pytorch_model_fsdp_0").glob("*.distcp"))) == 2  # each process wrote its shards
    run(tmp_path / "resumed", options(6), world=2, extra=FSDP2)
    assert _losses(tmp_path / "resumed") == _losses(tmp_path / "sharded")
    for a, b in zip(_losses(tmp_path / "one"), _losses(tmp_path / "sharded"), strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    drawn = [_values(tmp_path / name, "drawn") for name in ("one", "sharded")]
    assert len(drawn[0]) == 4  # twice before the last step, there, and at the end
    assert drawn[1] == pytest.approx(drawn[0], abs=1e-4)
    assert len(set(drawn[0])) == 3
    one, sharded, resumed = (_weights(tmp_path / name) for name in ("one", "sharded", "resumed"))
    before = tiny_checkpoint.load_transformer().state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in one.items())
    for name, value in one.items():
        assert torch.allclose(value, sharded[name], atol=2e-4), name  # Adam makes much of gradients near zero
        assert torch.equal(sharded[name], resumed[name]), name


def test_shares_of_a_batch_are_its_rows() -> None:
    whole = Share().noise((6, 2, 3), torch.Generator().manual_seed(1))
    parts = [Share(rank, 3).noise((2, 2, 3), torch.Generator().manual_seed(1)) for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("path", sorted(RECIPES.with_name("configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_launch_configs_are_accelerates(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes >= 8
    if "fsdp2" in path.stem:
        assert str(config.fsdp_config["fsdp_version"]) == "2"
        content = yaml.safe_load(path.read_text())["fsdp_config"]
        assert content["fsdp_cpu_ram_efficient_loading"] is False  # saved buffers are not sharded, and it takes none
