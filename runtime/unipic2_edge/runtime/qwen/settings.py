"""What the host must know of a Qwen2.5-VL: geometry of its vision, rope, chat pieces; read from the bundle's JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import BundleError

#: Where a token stands: "sequential" counts tokens (as the released editing script does),
#: "mrope" gives the tokens of a picture their row and column (as Qwen2.5-VL was trained).
Rope = Literal["sequential", "mrope"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the settings: immutable, hashable, and strict about unknown fields."""


class VisionSettings(Record, frozen=True):
    """How pictures are cut for the vision tower; the defaults are those of Qwen2.5-VL-7B.

    Lengths are pixels; `head_dim` and `rope_theta` belong to the tower's attention. A picture that is edited is seen
    at one token for each square of `edit_pixels_per_token` pixels of the result (UniPic 2.0's editing script: 32).
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    window_size: int = 112
    head_dim: int = 80
    rope_theta: float = 10000.0
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    edit_pixels_per_token: int = 32

    def __post_init__(self) -> None:
        sizes = (self.patch_size, self.merge_size, self.temporal_patch_size, self.edit_pixels_per_token)
        if min(sizes) < 1 or self.window_size < self.token_side:
            raise ValueError("a patch, a token and a window have at least one pixel")
        if self.head_dim < 4 or self.head_dim % 4:
            raise ValueError("the vision tower's head_dim is a multiple of 4: half for rows, half for columns")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError("min_pixels is positive and not above max_pixels")
        if min(self.std) <= 0:
            raise ValueError("std is positive")

    @property
    def token_side(self) -> int:
        """The side in pixels of what one token of the language model sees: 28."""
        return self.patch_size * self.merge_size


class RopeSettings(Record, frozen=True):
    """The language model's rotary positions, and which kind each task uses.

    `sections` are the shares of `head_dim`/2 that turn with time, row and column (`mrope_section`).
    """

    head_dim: int
    theta: float
    sections: tuple[int, int, int]
    condition: Rope = "sequential"
    answer: Rope = "mrope"

    def __post_init__(self) -> None:
        if 2 * sum(self.sections) != self.head_dim:
            raise ValueError(f"the rope sections {self.sections} do not add up to half of head_dim {self.head_dim}")


class ChatSettings(Record, frozen=True):
    """The pieces of the chat template, and the ids that mean something; the default pieces are Qwen2.5-VL's.

    `answer_system` stands before a question (Qwen2.5-VL's own template puts a default system prompt there, the
    released scripts of UniPic 2.0 remove it); `context` is the longest sequence the language model reads, in tokens.
    """

    image_pad_id: int
    stop_ids: tuple[int, ...]
    context: int
    system_start: str = "<|im_start|>system\n"
    user_start: str = "<|im_start|>user\n"
    picture: str = "<|vision_start|><|image_pad|><|vision_end|>"
    image_pad: str = "<|image_pad|>"
    turn_end: str = "<|im_end|>\n"
    assistant_start: str = "<|im_start|>assistant\n"
    answer_system: str = ""
    generation: str = "Generate an image: {prompt}"
    describe: str = "Describe the image."

    def __post_init__(self) -> None:
        if self.picture.count(self.image_pad) != 1:
            raise ValueError("the picture's piece holds the image pad once")
        if self.generation.count("{prompt}") != 1:
            raise ValueError("the generation piece holds {prompt} once")
        if not self.stop_ids or self.context < 1:
            raise ValueError("there is at least one stop id, and a context of at least one token")


class QwenSettings(Record, frozen=True):
    """`host/qwen/settings.json`: everything the host must know of one Qwen2.5-VL."""

    vision: VisionSettings
    rope: RopeSettings
    chat: ChatSettings


def read_settings(data: bytes) -> QwenSettings:
    """Settings from the bytes of `host/qwen/settings.json`.

    Raises:
        BundleError: not JSON, a field missing, unknown or out of range.
    """
    try:
        return msgspec.json.decode(data, type=QwenSettings)
    except msgspec.MsgspecError as error:
        raise BundleError(f"the settings of Qwen2.5-VL do not parse: {error}", "export the checkpoint again") from error
