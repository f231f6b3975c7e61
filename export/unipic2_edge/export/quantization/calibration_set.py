"""What a model is calibrated and judged on: prompts, and pictures with what to do to them; fixed, and hashed.

A folder of one's own holds

    prompts.txt     one prompt a line
    edits.txt       one edit a line: a picture's file name, a tab, the instruction
    pictures …      PNG, JPEG or WebP
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unipic2_edge.runtime.bundle import Manifest
from unipic2_edge.runtime.errors import RecipeError
from unipic2_edge.runtime.images import open_images
from unipic2_edge.training.shapes.captions import training_caption
from unipic2_edge.training.shapes.edits import training_edit
from unipic2_edge.training.shapes.render import render
from unipic2_edge.training.shapes.scene import Canvas, sample_scene

from ..recipes import CalibrationSettings

_FOLDER_MEND = "give a folder with prompts.txt, and edits.txt with its pictures (FILE<tab>INSTRUCTION)"


@dataclass(frozen=True)
class CalibrationSet:
    """Prompts to generate from, and edits (picture, instruction); with how they are sampled."""

    settings: CalibrationSettings
    prompts: tuple[str, ...]
    edits: tuple[tuple[Image.Image, str], ...]

    @property
    def sha256(self) -> str:
        """The hash over settings, prompts, pictures and instructions."""
        digest = hashlib.sha256(repr(self.settings).encode())
        for prompt in self.prompts:
            digest.update(prompt.encode() + b"\0")
        for picture, instruction in self.edits:
            digest.update(instruction.encode() + b"\0" + repr(picture.size).encode() + picture.tobytes())
        return digest.hexdigest()

    def part(self, count: int) -> CalibrationSet:
        """The first prompts and the first edits."""
        return CalibrationSet(self.settings, self.prompts[:count], self.edits[:count])


def open_calibration_set(settings: CalibrationSettings, manifest: Manifest, folder: Path | None) -> CalibrationSet:
    """Draw or read a calibration set.

    Raises:
        RecipeError: it has no prompts or no edits, or the recipe wants a folder and none is given.
        ImageError: one of the folder's pictures cannot be read.
    """
    if folder is not None:
        made = _read(settings, folder)
    elif settings.source == "folder":
        raise RecipeError("the recipe is calibrated on a folder, and none is given", "give it with --calibration DIR")
    else:
        made = _shapes(settings, manifest)
    if not made.prompts or not made.edits:
        raise RecipeError("the calibration set is empty", _FOLDER_MEND if folder else "give --calibration-prompts")
    return made


def _shapes(settings: CalibrationSettings, manifest: Manifest) -> CalibrationSet:
    """Captions and edits as training draws them; evaluation's are never among them."""
    default = manifest.defaults["generate"]
    width, height = settings.size or (default.width, default.height)
    canvas, rng = Canvas(width, height), np.random.default_rng([settings.seed, 4])
    prompts: list[str] = []
    while len(prompts) < settings.prompts:
        caption = training_caption(sample_scene(rng, canvas), rng)
        if caption is not None:
            prompts.append(caption.text)
    edits = [training_edit(rng, canvas) for _ in range(settings.prompts)]
    return CalibrationSet(
        settings, tuple(prompts), tuple((Image.fromarray(render(edit.source)), edit.text) for edit in edits)
    )


def _read(settings: CalibrationSettings, folder: Path) -> CalibrationSet:
    prompts = _lines(folder / "prompts.txt")[: settings.prompts]
    edits = []
    for line in _lines(folder / "edits.txt")[: settings.prompts]:
        name, separator, instruction = line.partition("\t")
        if not separator or not instruction.strip():
            raise RecipeError(f"{folder / 'edits.txt'} has a line that is no edit: {line[:60]!r}", _FOLDER_MEND)
        edits.append((open_images(folder / name, 1, 1)[0].convert("RGB"), instruction.strip()))
    return CalibrationSet(settings, tuple(prompts), tuple(edits))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read", _FOLDER_MEND) from error
    return [line.strip() for line in io.StringIO(text) if line.strip()]
