"""A judge behind a chat server: what it is asked, what its answers are worth, and what if it does not judge."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.errors import RecipeError, SuspendedWorkError
from unipic2_edge.training.loop.trainer import Trainer
from unipic2_edge.training.recipe import load_recipe
from unipic2_edge.training.reinforcement.stage import ReinforceStage
from unipic2_edge.training.rewards import chat_server
from unipic2_edge.training.rewards.judge import JudgeReward, parsed
from unipic2_edge.training.rewards.judge_questions import WORDINGS
from unipic2_edge.training.rewards.raters import Raters
from unipic2_edge.training.rewards.registry import Tables, make_reward
from unipic2_edge.training.rewards.reward import Asked, Picture
from unipic2_edge.training.rewards.settings import Judge

from .stub_judge import following, scores, stalling, stub_judge

SOURCE = np.full((8, 12, 3), 40, np.uint8)
PICTURES = [np.full((8, 12, 3), 10 * i, np.uint8) for i in range(3)]
EDITS = [Asked(f"make it {word}", SOURCE) for word in ("red", "{blue}", "green")]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_server, "_FIRST_PAUSE", 0.01)


def _judge(url: str, **settings: Any) -> JudgeReward:
    return JudgeReward(Judge(url=url, **{"timeout": 5.0, "concurrency": 2, **settings}))


def _shown(body: dict[str, Any]) -> tuple[list[Picture], str]:
    content = body["messages"][1]["content"]
    uris = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    assert all(uri.startswith("data:image/png;base64,") for uri in uris)
    images = [Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for uri in uris]
    return [np.asarray(image) for image in images], content[-1]["text"]


def test_an_edit_is_asked_about_with_its_source_and_worth_the_geometric_mean() -> None:
    with stub_judge(following) as stub:
        ratings = _judge(stub.url).rate(EDITS, PICTURES)
    assert [rating.value for rating in ratings] == [pytest.approx(0.6)] * 3
    assert ratings[0].parts == {"instruction_following": 0.9, "consistency": 0.4, "unanswered": 0.0}
    asked = sorted((_shown(body) for body in stub.bodies), key=lambda shown: int(shown[0][1].mean()))
    for (images, text), edit, picture in zip(asked, EDITS, PICTURES, strict=True):
        np.testing.assert_array_equal(images[0], SOURCE)
        np.testing.assert_array_equal(images[1], picture)
        assert edit.text in text
    assert stub.bodies[0]["model"] == "stub"  # the only one there
    assert stub.bodies[0]["temperature"] == 0


def test_every_picture_gets_its_own_scores() -> None:
    def by_brightness(number: int, body: dict[str, Any]) -> tuple[int, str]:
        return scores(prompt_following=float(_shown(body)[0][0].mean()) / 10)

    with stub_judge(by_brightness) as stub:
        ratings = _judge(stub.url, concurrency=3).rate([Asked("dark")] * 3, PICTURES)
    assert [rating.value for rating in ratings] == [0.0, 0.1, 0.2]


EDIT = WORDINGS["v1"].edit


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('{"instruction_following": 10, "consistency": 0}', [1.0, 0.0]),
        ('```json\n{"reason": "x", "instruction_following": 2.5, "consistency": 5}\n```', [0.25, 0.5]),
        ('{"instruction_following": 11, "consistency": 5}', None),
        ('{"instruction_following": -1, "consistency": 5}', None),
        ('{"instruction_following": NaN, "consistency": 5}', None),
        ('{"instruction_following": true, "consistency": 5}', None),
        ('{"instruction_following": "9", "consistency": 5}', None),
        ('{"instruction_following": 9}', None),
        ("[9, 5]", None),
        ("I would say 9 and 5.", None),
        ("", None),
    ],
)
def test_answers_are_read_strictly(answer: str, found: list[float] | None) -> None:
    read = parsed(answer, EDIT)
    assert (read and list(read.values())) == found


def test_nonsense_is_asked_about_once_more() -> None:
    def second_thoughts(number: int, body: dict[str, Any]) -> tuple[int, str]:
        return (200, "lovely!") if len(body["messages"]) == 2 else following(number, body)

    with stub_judge(second_thoughts) as stub:
        rating = _judge(stub.url).rate(EDITS[:1], PICTURES[:1])[0]
    assert rating.value == pytest.approx(0.6)
    assert [message["role"] for message in stub.bodies[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert stub.bodies[1]["messages"][2]["content"] == "lovely!"
    assert len(stub.bodies) == 2


def test_lasting_nonsense_about_one_is_worth_nothing_and_told_about_all_stops() -> None:
    def odd(number: int, body: dict[str, Any]) -> tuple[int, str]:
        return (200, "?") if "{blue}" in _shown(body)[1] else following(number, body)

    with stub_judge(odd) as stub:
        ratings = _judge(stub.url).rate(EDITS, PICTURES)
        assert [rating.parts["unanswered"] for rating in ratings] == [0.0, 1.0, 0.0]
        assert ratings[1].value == 0.0
        with pytest.raises(SuspendedWorkError, match="nothing but nonsense about 1 pictures"):
            _judge(stub.url).rate(EDITS[1:2], PICTURES[1:2])


def test_a_busy_server_is_asked_again_and_a_refusal_is_final() -> None:
    def busy(number: int, body: dict[str, Any]) -> tuple[int, str]:
        return {1: (503, "loading"), 2: (429, "slow down")}.get(number, following(number, body))

    with stub_judge(busy) as stub:
        assert _judge(stub.url).rate(EDITS[:1], PICTURES[:1])[0].value == pytest.approx(0.6)
        assert len(stub.bodies) == 3
    with stub_judge(lambda number, body: (400, "this model sees no pictures")) as stub:
        with pytest.raises(SuspendedWorkError, match="refuses the request: 400 this model sees no pictures"):
            Raters(_judge(stub.url), retries=3).submit(EDITS[:1], PICTURES[:1]).result()
        assert len(stub.bodies) == 1


def test_a_server_that_stalls_is_given_up() -> None:
    with stub_judge(stalling(3)) as stub, pytest.raises(SuspendedWorkError, match=r"Timeout.*\(2 attempts\)"):
        _judge(stub.url, timeout=0.2, retries=1).rate(EDITS[:1], PICTURES[:1])


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_judge(following) as stub:
        _judge(stub.url).rate(EDITS[:1], PICTURES[:1])
        assert set(stub.keys) == {None}
        monkeypatch.setenv("MY_KEY", "secret")
        _judge(stub.url, key_variable="MY_KEY").rate(EDITS[:1], PICTURES[:1])
        assert stub.keys[-1] == "Bearer secret"


def test_what_is_wrong_is_said_at_the_start() -> None:
    with stub_judge(following) as gone:
        pass
    for url, settings, said in (
        (gone.url, {}, "cannot be reached: ConnectError"),
        ("localhost:8000", {}, "is none"),
        ("http://", {}, "cannot be reached"),
        (gone.url, {"wording": "v0"}, "no wording 'v0'"),
    ):
        with pytest.raises(RecipeError, match=said):
            make_reward({"judge": 1.0}, Tables(judge=Judge(url=url, **settings)))  # type: ignore[arg-type]
    served: list[tuple[list[str], int, str, str]] = [
        (["a", "b"], 200, "", "several models"),
        (["a", "b"], 200, "c", "has not the model c"),
        ([], 401, "", "refuses the key"),
        ([], 404, "", "lists no models"),
        ([], 500, "a", "lists no models"),
    ]
    for models, status, model, said in served:
        with stub_judge(following, models, status) as stub, pytest.raises(RecipeError, match=said):
            _judge(stub.url, model=model)
    with stub_judge(following, [], 404) as stub:
        assert _judge(stub.url, model="any").rate(EDITS[:1], PICTURES[:1])[0].value == pytest.approx(0.6)


def _recipe(checkpoint: Checkpoint, url: str) -> list[str]:
    return [
        f"init={checkpoint.folder}", "config=tiny-kontext", "schedule.steps=2", "batch_size=4", "mixed_precision=no",
        "compile=false", "gradient_accumulation=1", "ema_decay=0", "logging.samples_every=0", "logging.state_every=0",
        "logging.every=1", "reinforce.groups=1",
        "reinforce.group_size=2", "reinforce.steps=2", "reinforce.nft.times=2", "reinforce.nft.sigmas=[0, 1]",
        "reinforce.deployed.steps=1", "reinforce.evaluated=1", f"reinforce.judge.url={url}",
        "reinforce.judge.retries=1", "reinforce.judge.timeout=5", "reinforce.rewards={judge = 1.0}",
    ]  # fmt: skip


def test_a_judge_that_dies_stops_the_training_with_its_state_and_it_goes_on(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    def dies(number: int, body: dict[str, Any]) -> tuple[int, str]:
        return following(number, body) if number <= 2 else (500, "out of memory")

    with stub_judge(dies) as stub:
        recipe = load_recipe("shapes-edit-rl", _recipe(tiny_checkpoint, stub.url))
        with pytest.raises(SuspendedWorkError, match="did not answer: 500 out of memory"):
            Trainer(recipe, ReinforceStage(recipe), tmp_path, progress=False).run()
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-0000001"]
    with pytest.raises(RecipeError, match="cannot be reached"):
        ReinforceStage(recipe)
    with stub_judge(following) as stub:
        recipe = load_recipe("shapes-edit-rl", _recipe(tiny_checkpoint, stub.url))
        Trainer(recipe, ReinforceStage(recipe), tmp_path, progress=False).run()
    logged: Sequence[dict[str, float]] = [
        json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()
    ]
    rewards = [entry["edit_reward"] for entry in logged if "edit_reward" in entry]
    assert rewards == [pytest.approx(0.6, abs=1e-3)] * 2
    assert (tmp_path / "checkpoint" / "transformer").is_dir()


def test_a_key_of_the_tables_that_is_none_is_answered_with_what_was_meant() -> None:
    with pytest.raises(RecipeError, match=r"did you mean reinforce\.judge.timeout"):
        load_recipe("shapes-edit-rl", ["reinforce.judge.timeuot=3"])
    with pytest.raises(RecipeError, match=r"reinforce\.geneval\.threshold is 2"):
        load_recipe("shapes-edit-rl", ["reinforce.geneval.threshold=2"])
