"""The recipe's tables `[reinforce.geneval]` and `[reinforce.judge]`: settings of the rewards that have some."""

from __future__ import annotations

from typing import Literal

from ..section import Count, Fraction, NotNegative, Positive, Section, Whole


class Geneval(Section, frozen=True):
    """GenEval's models and thresholds; the defaults are those of the original (Ghosh et al. 2023, arXiv 2310.11513).

    Models are folders or names on the hub. `max_overlap` is the intersection over union from which the weaker of two
    boxes of a class is dropped; 1 drops none.
    """

    detector: str = "facebook/mask2former-swin-small-coco-instance"
    clip: str = "openai/clip-vit-large-patch14"
    device: str = "auto"  # a GPU where there is one
    batch: Count = 8  # pictures in the detector at once
    threshold: Fraction = 0.3  # a detection's score must be above
    counting_threshold: Fraction = 0.9  # the same, in the task that counts
    max_objects: Count = 16  # of a class, the most certain ones
    max_overlap: Fraction = 1.0
    position_threshold: NotNegative = 0.1  # of both boxes' sizes: how far centres must be apart to be beside


class Judge(Section, frozen=True):
    """A judge behind an OpenAI-compatible chat server that sees pictures.

    Without a `model` it is the only one that the server has. The key is in the environment variable `key_variable`;
    without one, none is sent. `retries` are of a request that got no answer; pauses double, from one second on.
    """

    url: str = "http://127.0.0.1:8000/v1"
    model: str = ""
    key_variable: str = "UNIPIC2_JUDGE_KEY"
    wording: str = "v1"  # of its questions: a name in `judge_questions.py`
    tasks: tuple[Literal["generate", "edit"], ...] = ("generate", "edit")
    concurrency: Count = 8  # requests at once, of a batch
    timeout: Positive = 30.0  # seconds for one request
    retries: Whole = 2
    max_tokens: Count = 512
    temperature: NotNegative = 0.0
