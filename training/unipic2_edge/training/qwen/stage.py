"""The vision-language stage: Qwen2.5-VL from nothing, on questions about shapes, captions and instructions.

It stands in for the published language model, which saw the web: afterwards it is frozen, and the MetaQuery stage
reads its states. Pictures are seen in both deployed ways: for answering (the processor's size, the template's system
prompt half of the time, M-RoPE) and for conditioning (the editing size, no system prompt, sequential positions).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from ..loop.stage import TOKENS, Stage
from ..metaquery.checkpoint import MetaqueryCheckpoint
from ..metaquery.configs import METAQUERY
from ..recipe import Recipe
from ..shapes.questions import evaluation_questions, score_answers
from ..shapes.render import render
from ..shapes.scene import Canvas
from ..text.corpus import chat_sentences
from .chat import IGNORED, Chat, Conversation
from .lessons import Lesson, draw_lessons
from .model import embed, new_qwen, states
from .readers import CellReader, cell_targets
from .sight import Grid, Sight, pixel_range, positions
from .tokenizer import qwen_tokenizer
from .understanding import answer

_EVALUATED = 300
_CORPUS = 3_000
_READING_WEIGHT = 1.0


@dataclass(frozen=True)
class Batch:
    """A micro-batch: ids and labels [B, S], rope positions [3, S], patches and grid, cells to read [B, 9, 2]."""

    ids: Tensor
    labels: Tensor
    places: Tensor
    patches: Tensor | None
    grid: Grid | None
    cells: Tensor | None


class Pupil(nn.Module):
    """The model and, beside it, a reader of the picture's tokens that is thrown away after the training."""

    def __init__(self, qwen: nn.Module, hidden: int, grids: Iterable[Grid]) -> None:
        super().__init__()
        self.qwen = qwen
        self.reader = CellReader(hidden, grids)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Cross-entropy of the answers' tokens, and of what each cell of the picture shows (none without one)."""
        qwen: Any = self.qwen
        embedded = embed(qwen, batch.ids, batch.patches, batch.grid)
        hidden = states(qwen, embedded, batch.places)
        wanted = batch.labels[:, 1:] != IGNORED
        logits = qwen.lm_head(hidden[:, :-1][wanted])
        loss = functional.cross_entropy(logits.float(), batch.labels[:, 1:][wanted])
        if batch.cells is None or batch.grid is None:
            return loss, None
        merge = qwen.config.vision_config.spatial_merge_size
        seen = embedded[batch.ids == qwen.config.image_token_id].view(len(embedded), -1, embedded.shape[-1])
        return loss, self.reader.loss(seen, (batch.grid[0] // merge, batch.grid[1] // merge), batch.cells)


class VisionLanguageStage(Stage):
    """Trains `Pupil`; makes the tokenizer first.

    If `recipe.init` names a checkpoint that has qwen2_5_vl/, training goes on from its model and tokenizer; the reader
    of pictures, which no checkpoint holds, begins anew.
    """

    idle_parameters = True  # captions and instructions come without pictures

    def __init__(self, recipe: Recipe, output: Path) -> None:
        self.recipe = recipe
        config = METAQUERY[recipe.config]
        text = config.qwen["text_config"]
        torch.manual_seed(recipe.seed)
        if recipe.init is None:
            words = chat_sentences(_CORPUS, recipe.seed)
            self.chat = Chat(qwen_tokenizer(words, config.special_start, text["max_position_embeddings"]))
            qwen: Any = new_qwen(config.qwen)
        else:
            checkpoint = MetaqueryCheckpoint.open(Path(recipe.init), partial=True)
            self.chat, qwen = checkpoint.chat(), checkpoint.load_qwen().train()
        self.sight = Sight(Qwen2VLImageProcessorPil(size=pixel_range(*config.pixels)))
        self.canvases = [Canvas(*size) for size in recipe.data.sizes]
        self.model: nn.Module = Pupil(qwen, text["hidden_size"], self._token_grids())
        if recipe.compile:
            torch._dynamo.config.recompile_limit = 64
            for layer in qwen.model.language_model.layers:
                layer.compile()

    def _token_grids(self) -> list[Grid]:
        """Tokens down and across of every size of picture, in both ways of seeing."""
        ways = [(canvas, editing) for canvas in self.canvases for editing in (False, True)]
        grids = {self.sight.grid(canvas.width, canvas.height, editing) for canvas, editing in ways}
        return sorted((down // self.sight.merge, across // self.sight.merge) for down, across in grids)

    def losses(self, step: int, device: torch.device) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Each micro-batch's own draw of task, size and way of seeing."""
        for micro in range(self.recipe.gradient_accumulation):
            # Each process draws lessons of its own; answers differ in length, so the global mean is of means anyway.
            place = [self.share.rank] if self.share.rank else []
            rng = np.random.default_rng([self.recipe.seed, step, micro, *place])
            batch = self._batch(draw_lessons(rng, self.recipe, self.canvases), device)
            loss, reading = self.model(batch)
            if reading is None:
                yield loss, {"answer_loss": float(loss.detach()), TOKENS: batch.ids.numel()}
            else:
                metrics = {"answer_loss": float(loss.detach()), "reading_loss": float(reading.detach())}
                yield loss + _READING_WEIGHT * reading, metrics | {TOKENS: batch.ids.numel()}

    def _batch(self, lesson: Lesson, device: torch.device) -> Batch:
        patches, grid = self.sight.patches(lesson.pictures, lesson.editing) if lesson.pictures else (None, None)
        count = self.sight.tokens(grid) if grid else 0
        made: list[Conversation] = [
            self.chat.conversation(turns, count, lesson.system) for turns in lesson.conversations
        ]
        ids, labels = self.chat.padded(made)
        places = self._places(ids, None if lesson.editing else grid)
        cells = cell_targets(lesson.scenes).to(device) if lesson.scenes else None
        return Batch(
            ids.to(device), labels.to(device), places, patches.to(device) if patches is not None else None, grid, cells
        )

    def _places(self, ids: Tensor, grid: Grid | None) -> Tensor:
        start = int((ids[0] == self.chat.image_id).int().argmax()) if grid else 0
        return positions(ids.shape[1], start, grid, self.sight.merge)

    def flops(self) -> float:
        """Counted on the meta device."""
        from ..planning.dry_run import planned_flops  # which imports every stage's models

        return planned_flops(self.recipe)

    def samples(self, folder: Path, step: int) -> dict[str, float]:
        """The share of exact answers on unseen scenes, in both ways of seeing, and by kind in the first."""
        questions = evaluation_questions(_EVALUATED, self.canvases[0], seed=11)
        asked = [(question.text, render(question.scene)) for question in questions]
        pupil: Any = self.model
        made = {
            way: answer(pupil.qwen, self.chat, self.sight, asked, editing=way == "small") for way in ("whole", "small")
        }
        scores = {way: score_answers(questions, answers) for way, answers in made.items()}
        whole = scores["whole"]
        by_kind = {f"understanding_{kind}": whole.right[kind] / whole.total[kind] for kind in whole.total}
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{q.text}\t{q.answer}\t{a}" for q, a in zip(questions, made["whole"], strict=True)]
        (folder / f"step-{step:07d}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return {"understanding": whole.mean, "understanding_small": scores["small"].mean, **by_kind}

    def finish(self, output: Path) -> None:
        """Write the Qwen2.5-VL folder: model, tokenizer with its chat template, image processor."""
        pupil: Any = self.model
        folder = output / "qwen2_5_vl"
        pupil.qwen.save_pretrained(folder)
        self.chat.tokenizer.save_pretrained(folder)
        self.sight.processor.save_pretrained(folder)
