"""`quality.json`: how far a bundle is from its checkpoint, as last measured."""

from __future__ import annotations

import json

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.files import write_bytes

from .verify import Drift

QUALITY = "quality.json"


def write_quality(bundle: Bundle, drifts: list[Drift]) -> None:
    """Record the drift of every comparison, with the source's hash it holds for.

    Raises:
        OutputError, WorkError: the file cannot be written.
    """
    content = {
        "source": bundle.manifest.source.sha256,
        "stage": "pytorch fp32 against onnxruntime",
        "drifts": [drift.to_dict() for drift in drifts],
    }
    write_bytes(bundle.folder / QUALITY, (json.dumps(content, indent=2) + "\n").encode())
