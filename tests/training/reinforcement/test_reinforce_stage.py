"""The reinforce stage on a tiny checkpoint: it learns, goes on where it stopped, and survives its reward's death."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.errors import RecipeError, SuspendedWorkError
from unipic2_edge.training.loop.trainer import Trainer
from unipic2_edge.training.recipe import Recipe, load_recipe
from unipic2_edge.training.reinforcement.prompts import FilePrompts, ShapesPrompts
from unipic2_edge.training.reinforcement.stage import ReinforceStage
from unipic2_edge.training.rewards import raters
from unipic2_edge.training.rewards.reward import Asked, Picture, Rating, Reward
from unipic2_edge.training.shapes.captions import held_out_text
from unipic2_edge.training.shapes.scene import Canvas


class Reddish(Reward):
    """How red a picture is; dead after `alive` batches."""

    name = "reddish"
    alive = 10**9

    def rate(self, asked: Sequence[Asked], pictures: Sequence[Picture]) -> list[Rating]:
        if Reddish.alive <= 0:
            raise ConnectionError("gone")
        Reddish.alive -= 1
        return [Rating(float(picture[..., 0].mean()) / 255) for picture in pictures]


REDDISH = f"{Reddish.__module__}:Reddish"


@pytest.fixture(autouse=True)
def _alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raters, "_FIRST_PAUSE", 0.01)
    Reddish.alive = 10**9
    AcceleratorState._reset_state(reset_partial_state=True)  # one process, several precisions


def _recipe(checkpoint: Checkpoint, *changes: str, steps: int = 4) -> Recipe:
    return load_recipe(
        "shapes-edit-rl",
        [
            f"init={checkpoint.folder}",
            "config=tiny-kontext",
            f"schedule.steps={steps}",
            "batch_size=5",
            "gradient_accumulation=1",
            "ema_decay=0",
            "mixed_precision=no",
            "compile=false",
            "logging.samples_every=0",
            "logging.state_every=0",
            "logging.every=1",
            "reinforce.groups=2",
            "reinforce.group_size=3",
            "reinforce.steps=3",
            "reinforce.nft.times=2",
            "reinforce.deployed.steps=2",
            "reinforce.evaluated=2",
            "reinforce.lora.rank=2",
            *changes,
        ],
    )


def _logged(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(Checkpoint.open(folder).load_transformer().state_dict())


@pytest.mark.parametrize(
    "changes",
    [
        ("reinforce.algorithm=diffusion-nft", "reinforce.weights=full", "reinforce.nft.kl=1e-4"),
        ("reinforce.algorithm=diffusion-nft", "reinforce.weights=lora", "gradient_checkpointing=true"),
        ("reinforce.algorithm=flow-grpo", "reinforce.weights=lora", "reinforce.guidance=2.0", "reinforce.updates=2"),
        ("reinforce.algorithm=flow-grpo", "reinforce.weights=full", "gradient_accumulation=2", "mixed_precision=bf16"),
    ],
)
def test_a_run_writes_a_whole_plain_checkpoint(
    tiny_checkpoint: Checkpoint, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    recipe = _recipe(tiny_checkpoint, "reinforce.edit_share=0.5", "reinforce.deployed.guidance=1.0", *changes)
    scores = Trainer(recipe, ReinforceStage(recipe), tmp_path, progress=False).run()
    assert set(scores) == {"generation", "generation_reward", "editing", "editing_reward"}
    logged = [entry for entry in _logged(tmp_path) if "loss" in entry]
    assert len(logged) == 4
    episodes = {next(name for name in entry if name.endswith("_reward")) for entry in logged}
    assert episodes == {"edit_reward", "generate_reward"}
    assert all(0 <= entry["equal_groups"] <= 1 and entry["seconds_sampling"] > 0 for entry in logged)
    made, before = _weights(tmp_path / "checkpoint"), tiny_checkpoint.load_transformer().state_dict()
    assert made.keys() == before.keys()
    changed = {name for name, tensor in made.items() if not torch.equal(tensor, before[name])}
    assert changed
    if "reinforce.weights=lora" in changes:
        assert all("attn" in name for name in changed)
    assert Checkpoint.open(tmp_path / "checkpoint").defaults()["edit"]["guidance_scale"] == 1.0
    assert list((tmp_path / "samples").glob("*.png"))


@pytest.mark.parametrize("algorithm", ["flow-grpo", "diffusion-nft"])
def test_going_on_in_the_middle_of_an_episode_equals_never_having_stopped(
    tiny_checkpoint: Checkpoint, tmp_path: Path, algorithm: str
) -> None:
    changes = (f"reinforce.algorithm={algorithm}", "reinforce.updates=2", "logging.state_every=3", "schedule.decay=0")
    whole = _recipe(tiny_checkpoint, *changes, steps=6)
    Trainer(whole, ReinforceStage(whole), tmp_path / "whole", progress=False).run()
    part = _recipe(tiny_checkpoint, *changes, steps=3)
    Trainer(part, ReinforceStage(part), tmp_path / "parts", progress=False).run()
    Trainer(whole, ReinforceStage(whole), tmp_path / "parts", progress=False).run()
    first, second = _weights(tmp_path / "whole/checkpoint"), _weights(tmp_path / "parts/checkpoint")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_dead_reward_stops_the_run_with_its_state_and_the_same_command_goes_on(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    recipe = _recipe(tiny_checkpoint, f'reinforce.rewards={{"{REDDISH}" = 1.0}}', "reinforce.reward_retries=1", steps=3)
    Reddish.alive = 4  # two batches an episode
    with pytest.raises(SuspendedWorkError, match="reward reddish failed: ConnectionError: gone"):
        Trainer(recipe, ReinforceStage(recipe), tmp_path, progress=False).run()
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-0000002"]
    Reddish.alive = 10**9
    Trainer(recipe, ReinforceStage(recipe), tmp_path, progress=False).run()
    assert [entry["step"] for entry in _logged(tmp_path) if "loss" in entry] == [1, 2, 3]
    assert (tmp_path / "checkpoint" / "transformer").is_dir()


@pytest.mark.slow
def test_pictures_get_redder(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    recipe = _recipe(
        tiny_checkpoint,
        f'reinforce.rewards={{"{REDDISH}" = 1.0}}',
        "reinforce.edit_share=0",
        "reinforce.groups=4",
        "reinforce.group_size=8",
        "batch_size=32",
        "optimizer.lr=2e-3",
        "schedule.warmup=1",
        steps=25,
    )
    Trainer(recipe, ReinforceStage(recipe), tmp_path, progress=False).run()
    rewards = [entry["generate_reward"] for entry in _logged(tmp_path) if "loss" in entry]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.02


def test_training_never_asks_what_evaluation_asks() -> None:
    prompts, canvas = ShapesPrompts(), Canvas(64, 64)
    rng = np.random.default_rng(0)
    asked = prompts.training(rng, 60, False, canvas) + prompts.training(rng, 60, True, canvas)
    assert not any(held_out_text(one.text) for one in asked if getattr(one.record, "kind", "") != "background")
    kept = prompts.evaluation(12, False, canvas) + prompts.evaluation(12, True, canvas)
    assert all(held_out_text(one.text) for one in kept if getattr(one.record, "kind", "") != "background")
    assert [one.text for one in kept[:12]] == [one.text for one in prompts.evaluation(12, False, canvas)]


def _file(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_prompts_from_a_file(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 40, 3), 90, np.uint8)).save(tmp_path / "gray.png")
    training = _file(
        tmp_path / "a.jsonl", {"text": "a dog", "tag": 1}, "", {"text": "make it red", "image": "gray.png"}
    )
    evaluation = _file(tmp_path / "b.jsonl", {"text": "a cat"})
    prompts = FilePrompts(training, evaluation)
    rng = np.random.default_rng(0)
    generated = prompts.training(rng, 2, False, Canvas(64, 32))
    assert [(one.text, one.source, one.record["tag"]) for one in generated] == [("a dog", None, 1)] * 2
    edited = prompts.training(rng, 1, True, Canvas(64, 32))[0]
    assert edited.source is not None
    assert edited.source.shape == (32, 64, 3)
    assert [one.text for one in prompts.evaluation(5, False, Canvas(64, 32))] == ["a cat"]
    assert prompts.evaluation(5, True, Canvas(64, 32)) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [("{", "line 1"), ({"words": "a dog"}, "has no text"), ({"text": "a", "image": 3}, "image is no path")],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, line: object, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        FilePrompts(_file(tmp_path / "a.jsonl", line), None)
    with pytest.raises(RecipeError, match="cannot be read"):
        FilePrompts(tmp_path / "none.jsonl", None)


def test_what_is_trained_on_may_not_be_evaluated(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.jsonl", {"text": "a dog"})
    with pytest.raises(RecipeError, match="'a dog' is to be trained on and evaluated"):
        FilePrompts(path, path)


@pytest.mark.parametrize(
    "change",
    [
        "group_size=1",
        "edit_share=2",
        "noise.level=1.5",
        "noise.window=6",
        "nft.mix=0",
        "nft.sigmas=[0.9, 0.1]",
        "reward_timeout=0",
        "groups=0",
    ],
)
def test_a_table_that_cannot_be_is_refused(change: str) -> None:
    with pytest.raises(RecipeError, match=r"reinforce\."):
        load_recipe("shapes-edit-rl", [f"reinforce.{change}"])


def test_an_episode_too_small_for_its_micro_batches_is_refused(tiny_checkpoint: Checkpoint) -> None:
    for changes in (("gradient_accumulation=13",), ("reinforce.nft.sigmas=[0.01, 0.02]",)):
        with pytest.raises(RecipeError, match="cannot be divided"):
            ReinforceStage(_recipe(tiny_checkpoint, *changes))


def test_the_pace_counts_an_episodes_pictures(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    recipe = _recipe(tiny_checkpoint, "reinforce.updates=2", steps=2)
    stage = ReinforceStage(recipe)
    assert stage.samples_a_step() == 3  # of 2 groups of 3, learned from in two updates
    Trainer(recipe, stage, tmp_path, progress=False).run()
    paces = [line for line in _logged(tmp_path) if "samples_per_second" in line]
    assert paces
    for line in paces:
        assert line["samples_per_second"] * line["seconds_per_step"] == pytest.approx(3, rel=1e-4)
