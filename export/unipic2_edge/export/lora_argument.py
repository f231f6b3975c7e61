"""`--lora FILE[:SCALE]`, as `export` and `verify` take it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unipic2_edge.training.checkpoint import Checkpoint


def add_lora_argument(parser: argparse.ArgumentParser) -> None:
    """The argument, repeatable."""
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:SCALE]",
        help="merge a LoRA of the denoiser, in peft's or diffusers' format, first (may be given several times)",
    )


def with_loras(checkpoint: Checkpoint, arguments: argparse.Namespace) -> Checkpoint:
    """The checkpoint with the LoRAs that the command line names."""
    from unipic2_edge.training.lora import parse_lora

    return checkpoint.with_loras([parse_lora(text) for text in arguments.lora])
