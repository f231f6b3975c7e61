"""Detectors of objects, and who names objects' colours: transformers' models, or a stand-in of either."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import RecipeError
from .geneval_metadata import COLORS
from .geneval_rules import Found
from .reward import Picture

#: GenEval's names of classes that COCO calls otherwise; and how some detectors' configs call COCO's.
ALIASES = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "hair dryer": "hair drier",
}
_BLANK = (0x99, 0x99, 0x99)  # the original's gray around an object
_TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")


class Detector(ABC):
    """Finds objects, by GenEval's names. Called from several threads at once."""

    names: frozenset[str]

    @abstractmethod
    def find(self, pictures: Sequence[Picture], threshold: float) -> list[list[Found]]:
        """What is in each picture with a score of `threshold` or more."""


class ColorNamer(ABC):
    """Names the colours of objects. Called from several threads at once."""

    @abstractmethod
    def name(self, picture: Picture, name: str, things: Sequence[Found]) -> list[str]:
        """One of GenEval's colours for each of some objects of the class `name`."""


class TransformersDetector(Detector):
    """An instance segmentation model (Mask2Former, MaskFormer) or a detector of boxes (DETR and the like).

    Args:
        name: a folder or a name on the hub.
        device: see `device_of`.
        batch: pictures at once.

    Raises:
        RecipeError: there is no such model, or it finds no objects.
    """

    def __init__(self, name: str, device: str, batch: int = 8) -> None:
        from transformers import AutoConfig, AutoModelForObjectDetection
        from transformers import AutoModelForUniversalSegmentation as AutoModelForSegmentation

        config = opened("detector", name, AutoConfig.from_pretrained)
        self.segments = not any("ObjectDetection" in kind for kind in config.architectures or ())
        auto = AutoModelForSegmentation if self.segments else AutoModelForObjectDetection
        self.processor = opened("detector", name, _image_processor)
        wanted = f"post_process_{'instance_segmentation' if self.segments else 'object_detection'}"
        if not hasattr(self.processor, wanted):
            raise RecipeError(f"the detector {name} finds no objects", "give a Mask2Former of instances, or a DETR")
        self.device, self.batch = device_of(device), batch
        self.model = opened("detector", name, auto.from_pretrained).eval().to(self.device)
        self.labels = {int(number): ALIASES.get(label, label) for number, label in config.id2label.items()}
        self.names = frozenset(self.labels.values())

    @torch.inference_mode()
    def find(self, pictures: Sequence[Picture], threshold: float) -> list[list[Found]]:
        """See `Detector`; a mask's box goes from its first pixels to behind its last."""
        found: list[list[Found]] = []
        for start in range(0, len(pictures), self.batch):
            part = [Image.fromarray(picture) for picture in pictures[start : start + self.batch]]
            inputs = self.processor(images=part, return_tensors="pt").to(self.device)
            outputs = self.model(**inputs)
            sizes = [(image.height, image.width) for image in part]
            found += (
                self._segments(outputs, sizes, threshold) if self.segments else self._boxes(outputs, sizes, threshold)
            )
        return found

    def _segments(self, outputs: Any, sizes: list[tuple[int, int]], threshold: float) -> list[list[Found]]:
        post_process = self.processor.post_process_instance_segmentation
        made = post_process(outputs, threshold=threshold, target_sizes=sizes, return_binary_maps=True)
        return [self._masked(each["segmentation"], each["segments_info"]) for each in made]

    def _masked(self, maps: Tensor, segments: Sequence[dict[str, Any]]) -> list[Found]:
        found = []
        for segment, plane in zip(segments, maps if segments else (), strict=True):
            mask = plane.cpu().numpy() > 0
            down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = (float(across[0]), float(down[0]), float(across[-1] + 1), float(down[-1] + 1))
            found.append(Found(self.labels[int(segment["label_id"])], float(segment["score"]), box, mask))
        return found

    def _boxes(self, outputs: Any, sizes: list[tuple[int, int]], threshold: float) -> list[list[Found]]:
        made = self.processor.post_process_object_detection(outputs, threshold=threshold, target_sizes=sizes)
        return [
            [
                Found(self.labels[int(label)], float(score), (box[0], box[1], box[2], box[3]))
                for label, score, box in zip(each["labels"], each["scores"], each["boxes"].tolist(), strict=True)
            ]
            for each in made
        ]


class ClipColorNamer(ColorNamer):
    """CLIP's zero-shot choice among GenEval's colours, on each object's crop, gray where its mask is not.

    Args:
        name: a CLIP with its processor: a folder or a name on the hub.
        device: see `device_of`.

    Raises:
        RecipeError: there is no such model.
    """

    def __init__(self, name: str, device: str) -> None:
        from transformers import CLIPModel, CLIPProcessor

        self.processor = opened("CLIP", name, CLIPProcessor.from_pretrained)
        self.device = device_of(device)
        self.model = opened("CLIP", name, CLIPModel.from_pretrained).eval().to(self.device)
        self._classifiers: dict[str, Tensor] = {}

    @torch.inference_mode()
    def name(self, picture: Picture, name: str, things: Sequence[Found]) -> list[str]:
        """See `ColorNamer`."""
        crops = [cropped(picture, thing) for thing in things]
        pixels = self.processor(images=crops, return_tensors="pt")["pixel_values"].to(self.device)
        seen = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
        return [COLORS[int(best)] for best in (seen @ self._classifier(name).T).argmax(dim=1)]

    def _classifier(self, name: str) -> Tensor:
        """Unit vectors [colours, D]: the mean over the templates' own (Radford et al. 2021, section 3.1.4)."""
        if name not in self._classifiers:
            rows = []
            for color in COLORS:
                texts = [template.format(color=color, name=name) for template in _TEMPLATES]
                words = self.processor(text=texts, return_tensors="pt", padding=True).to(self.device)
                said = self.model.text_projection(self.model.text_model(**words).pooler_output)  # [templates, D]
                rows.append(torch.nn.functional.normalize(said, dim=-1).mean(dim=0))
            self._classifiers[name] = torch.nn.functional.normalize(torch.stack(rows), dim=-1)
        return self._classifiers[name]


def cropped(picture: Picture, thing: Found) -> Image.Image:
    """An object's box, at least a pixel of it, with gray for what its mask leaves out."""
    shown = picture if thing.mask is None else np.where(thing.mask[..., None], picture, np.array(_BLANK, np.uint8))
    left, top, right, bottom = (round(edge) for edge in thing.box)
    return Image.fromarray(shown).crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def _image_processor(name: str) -> Any:
    """A model's own image processor, the one that works by Pillow: the others need torchvision.

    Raises:
        OSError, ValueError: there is none.
    """
    import transformers

    settings, _ = transformers.ImageProcessingMixin.get_image_processor_dict(name)
    kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type"))
    kind = kind.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil") + "Pil"
    processor = getattr(transformers, kind, None)
    if processor is None:
        raise ValueError(f"transformers has no {kind}")
    return processor.from_pretrained(name)


def opened(what: str, name: str, load: Callable[[str], Any]) -> Any:
    """A model's part by a folder or a name on the hub.

    Raises:
        RecipeError: there is none, or it is broken.
    """
    try:
        return load(name)
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RecipeError(
            f"the {what} {name} cannot be opened: {said}",
            "give a folder in transformers' layout, or a name that the hub or its cache has",
        ) from error


def device_of(name: str) -> torch.device:
    """`auto` is this process's GPU, where there is one; anything else is torch's own name.

    Raises:
        RecipeError: torch knows no such device, or this machine has none.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"there is no device {name}", "use auto, cpu, or one like cuda:0") from error
