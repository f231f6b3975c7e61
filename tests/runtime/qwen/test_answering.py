"""Answers equal transformers' generate() token for token, with prefix reuse and without; only new tokens are read."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.qwen import seeing
from unipic2_edge.runtime.qwen.answering import answer_tokens
from unipic2_edge.runtime.qwen.chat import Chat
from unipic2_edge.runtime.qwen.language import LanguageModel
from unipic2_edge.runtime.qwen.prefix import PrefixCache
from unipic2_edge.runtime.qwen.preprocessing import SeenPicture, count_tokens, edit_pixels, see
from unipic2_edge.runtime.qwen.querying import QueryConditioner
from unipic2_edge.runtime.qwen.reading import Reader
from unipic2_edge.runtime.qwen.sampling import Sampler, SamplingSettings
from unipic2_edge.runtime.qwen.seeing import Eyes
from unipic2_edge.runtime.qwen.sequence import TokenSequence
from unipic2_edge.runtime.qwen.settings import QwenSettings, Rope

from .conftest import IMAGE_PAD, SETTINGS, TURN_END, VISION
from .stand_ins import Connector, Head, Language, StandIn, Vision

QUESTIONS = ["what color is the circle?", "how many squares are there?", "describe the image.", "红色 🙂?", "x"]
ANSWER = 10


class Bench:
    """A reader over stand-ins, and what it is compared with."""

    def __init__(self, model: Any, tokenizer: Tokenizer, room: int, settings: QwenSettings = SETTINGS) -> None:
        self.model, self.chat = model, Chat(tokenizer, settings.chat)
        self.language, self.vision = Language(model), Vision(model)
        self.sessions: dict[str, StandIn] = {"language": self.language, "vision": self.vision, "lm_head": Head(model)}
        table = model.get_input_embeddings().weight.detach().numpy()
        self.queries = np.random.default_rng(9).standard_normal((8, table.shape[1])).astype(np.float32)
        self.reader = Reader(self.sessions, settings, lambda ids: table[ids], self.queries, PrefixCache(room))

    def question(self, words: str, *pictures: SeenPicture) -> TokenSequence:
        counts = [count_tokens(picture.grid, VISION) for picture in pictures]
        return TokenSequence(self.chat.question(words, counts), pictures)

    def answer(self, sequence: TokenSequence, rope: Rope = "mrope", **sampling: Any) -> list[int]:
        sampler = Sampler(SamplingSettings(**sampling))
        return list(answer_tokens(self.reader, sequence, sampler, ANSWER, rope))

    def theirs(self, sequence: TokenSequence, stop: int = TURN_END) -> list[int]:
        ids = torch.from_numpy(sequence.ids)[None]
        seen: dict[str, torch.Tensor] = {}
        if sequence.pictures:
            seen["pixel_values"] = torch.from_numpy(np.concatenate([one.patches for one in sequence.pictures]))
            seen["image_grid_thw"] = torch.tensor([one.grid for one in sequence.pictures])
        given = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == IMAGE_PAD).int(),
            do_sample=False,
            max_new_tokens=ANSWER,
            eos_token_id=stop,
            pad_token_id=0,
            **seen,
        )
        new: list[int] = given[0, ids.shape[1] :].tolist()
        return new[: new.index(stop)] if stop in new else new


def _picture(seed: int, pixels: int | None = None) -> SeenPicture:
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(40, 260, 2))
    blocks = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return see(blocks.resize((width, height), Image.Resampling.NEAREST), VISION, pixels)


@pytest.fixture
def bench(tiny: Any, tokenizer: Tokenizer) -> Bench:
    return Bench(tiny, tokenizer, 1 << 26)


@pytest.fixture
def forgetful(tiny: Any, tokenizer: Tokenizer) -> Bench:
    return Bench(tiny, tokenizer, 0)


def test_greedy_answers_equal_generate_with_and_without_reuse(bench: Bench, forgetful: Bench) -> None:
    answers = set()
    for number in range(24):
        words = QUESTIONS[number % 5]
        picture = _picture(number // 2)  # each one twice
        sequence = bench.question(words, picture)
        wanted = bench.theirs(sequence)
        assert forgetful.answer(sequence) == wanted
        assert bench.answer(sequence) == wanted
        answers.add(tuple(wanted))
    assert len(answers) > 12  # the pictures and the words matter
    assert max(len(answer) for answer in answers) == ANSWER


def test_text_alone_and_two_pictures_equal_generate(bench: Bench) -> None:
    for number in range(4):
        text = bench.question(QUESTIONS[number])
        assert bench.answer(text) == bench.theirs(text)
        both = bench.question(QUESTIONS[number], _picture(3), _picture(number))
        assert bench.answer(both) == bench.theirs(both)


def test_a_second_question_reads_only_its_own_words(bench: Bench) -> None:
    picture = _picture(1)
    first, second = (bench.question(words, picture) for words in QUESTIONS[:2])
    bench.answer(first)
    assert bench.language.lengths[0] == len(first.ids)
    del bench.language.lengths[:]
    bench.answer(second)
    end = int(np.flatnonzero(second.ids == IMAGE_PAD)[-1]) + 1
    assert bench.language.lengths == [len(second.ids) - end] + [1] * (ANSWER - 1)
    assert len(bench.vision.lengths) == 1
    assert bench.reader.read(second, "mrope").reused == end


def test_the_second_of_two_pictures_may_differ(bench: Bench) -> None:
    one, two, three = (_picture(seed) for seed in (1, 2, 3))
    bench.answer(bench.question("x", one, two))
    sequence = bench.question("x", one, three)
    wanted = bench.theirs(sequence)
    start = int(np.flatnonzero(sequence.ids == IMAGE_PAD)[count_tokens(one.grid, VISION)])
    assert bench.reader.read(sequence, "mrope").reused == start
    assert bench.answer(sequence) == wanted


def test_another_rope_reads_again_but_does_not_look_again(bench: Bench) -> None:
    sequence = bench.question("what is it?", _picture(4))
    hidden = bench.reader.read(sequence, "mrope").hidden
    other = bench.reader.read(sequence, "sequential")
    assert other.reused == 0
    assert np.abs(other.hidden - hidden).max() > 1e-3
    assert len(bench.vision.lengths) == 1


@pytest.mark.parametrize("rope", ["sequential", "mrope"])
def test_meta_queries_after_an_edit_equal_transformers(bench: Bench, rope: Rope) -> None:
    pixels = edit_pixels(160, 128, VISION)
    for number, words in enumerate(["make the circle blue", "remove it", ""]):
        picture = _picture(7, pixels)
        ids = bench.chat.editing(words, [count_tokens(picture.grid, VISION)], room=8)
        sequence = TokenSequence(ids, (picture,)).with_queries(8)
        reading = bench.reader.read(sequence, rope, select=8)
        assert (reading.reused > 0) == (number > 0)
        wanted = _whole(bench, sequence, rope)
        np.testing.assert_allclose(reading.hidden, wanted[:, -8:], atol=2e-5)


def _whole(bench: Bench, sequence: TokenSequence, rope: Rope) -> np.ndarray:
    """The last hidden states [1, S, H] of transformers' language model, all at once, with explicit positions."""
    model, words = bench.model, np.maximum(sequence.ids, 0)
    with torch.no_grad():
        rows = model.get_input_embeddings()(torch.from_numpy(words)).clone()
        for picture in sequence.pictures:
            grid = torch.tensor([picture.grid])
            seen = model.model.visual(torch.from_numpy(picture.patches), grid_thw=grid).pooler_output
            rows[torch.from_numpy(sequence.ids == IMAGE_PAD)] = seen
        rows[-8:] = torch.from_numpy(bench.queries)
        positions = torch.from_numpy(sequence.positions(SETTINGS, rope))[:, None]
        states = model.model.language_model(inputs_embeds=rows[None], position_ids=positions)
    return states.last_hidden_state.numpy()


@pytest.mark.parametrize("chunk", [1, 3, 5, 7, 20])
def test_reading_in_chunks_gives_the_same(bench: Bench, chunk: int) -> None:
    rng = np.random.default_rng(chunk)
    rows = rng.standard_normal((2, 20, 64)).astype(np.float32)
    positions = np.tile(np.arange(20), (3, 1))
    pieces = LanguageModel(bench.sessions, SETTINGS.rope, chunk)
    whole = bench.reader.model
    for select in (1, 4, 6, 20):
        hidden, cache = pieces.prefill(rows, positions, pieces.empty(2), select)
        wanted, known = whole.prefill(rows, positions, whole.empty(2), select)
        assert hidden.shape == (2, select, 64)
        np.testing.assert_allclose(hidden, wanted, atol=1e-5)
        for ours, theirs in zip(cache.arrays, known.arrays, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert max(bench.language.lengths[: 20 // chunk]) == chunk


def test_eyes_remember_within_their_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [_picture(seed) for seed in (1, 2, 3)]
    eyes = Eyes(bench.sessions, VISION)
    sizes = [eyes(picture).nbytes for picture in pictures]
    assert eyes(pictures[0]).shape == (count_tokens(pictures[0].grid, VISION), 64)
    assert len(bench.vision.lengths) == 3
    monkeypatch.setattr(seeing, "_REMEMBERED", sizes[0] + sizes[2])
    eyes(pictures[2])  # lets the second go
    eyes(pictures[0])
    assert len(bench.vision.lengths) == 3
    eyes(pictures[1])
    assert len(bench.vision.lengths) == 4


def test_conditioning_is_the_connector_over_the_queries_and_computed_once(bench: Bench) -> None:
    connector = Connector(bench.queries.shape[1])
    conditioner = QueryConditioner(bench.reader, bench.chat, bench.sessions | {"connector": connector}, 8)
    image = Image.fromarray(np.random.default_rng(7).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    turns = [*conditioner.turns(["make it blue", "", ""], [image] * 3), *conditioner.turns(["a red circle"])]
    assert len(dict.fromkeys(turns)) == 3
    assert turns[0].picture == see(image, VISION, edit_pixels(96, 64, VISION)).digest
    context, pooled = conditioner(turns)
    assert (context.shape, pooled.shape) == ((4, 8, 128), (4, 64))
    assert connector.lengths == [1, 1, 1]
    for row, turn in zip(context, turns, strict=True):
        wanted = _whole(bench, turn.sequence.with_queries(8), "sequential")[0, -8:]
        np.testing.assert_allclose(row, np.tile(wanted, 2), atol=2e-5)
    conditioner(conditioner.turns([f"number {number}" for number in range(32)]))
    conditioner(turns[:1])  # forgotten by now
    assert len(connector.lengths) == 3 + 32 + 1


def test_a_stop_id_ends_the_answer(tiny: Any, tokenizer: Tokenizer, bench: Bench) -> None:
    sequence = bench.question(QUESTIONS[0], _picture(5))
    whole = bench.answer(sequence)
    stop = whole[4]
    chat = msgspec.structs.replace(SETTINGS.chat, stop_ids=(TURN_END, stop))
    stopping = Bench(tiny, tokenizer, 0, msgspec.structs.replace(SETTINGS, chat=chat))
    assert stopping.answer(sequence) == whole[: whole.index(stop)] == bench.theirs(sequence, stop)


def test_the_context_ends_the_answer(tiny: Any, tokenizer: Tokenizer, bench: Bench) -> None:
    sequence = bench.question("x")
    chat = msgspec.structs.replace(SETTINGS.chat, context=len(sequence.ids) + 3)
    tight = Bench(tiny, tokenizer, 0, msgspec.structs.replace(SETTINGS, chat=chat))
    assert tight.answer(sequence) == bench.answer(sequence)[:3]


def test_drawn_answers_repeat_with_their_seed(bench: Bench) -> None:
    sequence = bench.question("x", _picture(6))
    first = bench.answer(sequence, temperature=2.0, top_p=0.95, seed=3)
    assert bench.answer(sequence, temperature=2.0, top_p=0.95, seed=3) == first
    assert bench.answer(sequence, temperature=2.0, top_p=0.95, seed=4) != first


def test_no_token_is_computed_before_it_is_asked_for(bench: Bench) -> None:
    tokens = answer_tokens(bench.reader, bench.question("x"), Sampler(SamplingSettings()), ANSWER)
    assert bench.language.lengths == []
    next(tokens)
    assert len(bench.language.lengths) == 1
    next(tokens)
    assert len(bench.language.lengths) == 2


def test_an_answer_of_no_tokens_is_refused_at_once(bench: Bench) -> None:
    with pytest.raises(RequestError, match="0 tokens"):
        answer_tokens(bench.reader, bench.question("x"), Sampler(SamplingSettings()), 0)
