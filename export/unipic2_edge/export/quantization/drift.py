"""How far a candidate is from the reference: velocities along the reference's paths, pictures from the same seeds.

Velocities are compared call by call with the inputs that the reference's denoiser had, so that errors do not add up
along a path; pictures are the end of the candidate's own path, where they do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from unipic2_edge.runtime.session import Array, Arrays, Session

Floats = NDArray[np.float32]
_UNCHANGED = 0.03  # of the range of values: what the reference's edit left alone


@dataclass(frozen=True)
class Call:
    """One call of the reference's denoiser: what went in, and the velocity [B, N, V] that came out."""

    inputs: dict[str, Array]
    velocity: Array


class Recorder:
    """A session that keeps what goes through it."""

    def __init__(self, session: Session) -> None:
        self.graph = session.graph
        self.calls: list[Call] = []
        self._session = session

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Run, and keep copies."""
        made = self._session.run(inputs)
        self.calls.append(Call({name: array.copy() for name, array in inputs.items()}, made["velocity"].copy()))
        return made

    def close(self) -> None:
        """Close the session; the calls stay."""
        self._session.close()


def velocity_errors(session: Session, calls: Iterable[Call]) -> list[float]:
    """The relative error ‖v' − v‖ / ‖v‖ of every call."""
    return [relative(session.run(call.inputs)["velocity"], call.velocity) for call in calls]


def relative(made: Array, exact: Array) -> float:
    """‖made − exact‖ / ‖exact‖, in double precision."""
    exact = exact.astype(np.float64)
    return float(np.linalg.norm(made.astype(np.float64) - exact) / max(float(np.linalg.norm(exact)), 1e-30))


@dataclass(frozen=True)
class PictureDrift:
    """Means over pictures: PSNR in dB, SSIM (Wang et al. 2004), and the PSNR of what edits left alone."""

    psnr: float
    ssim: float
    preserved_psnr: float | None


def picture_drift(
    made: Sequence[Image.Image], exact: Sequence[Image.Image], sources: Sequence[Image.Image | None]
) -> PictureDrift:
    """Compare pictures pairwise.

    Args:
        made: the candidate's.
        exact: the reference's, from the same seeds.
        sources: what was edited, for edits.
    """
    psnr, ssim, preserved = [], [], []
    for ours, theirs, source in zip(made, exact, sources, strict=True):
        a, b = _array(ours), _array(theirs)
        psnr.append(float(peak_signal_noise_ratio(a, b, data_range=1.0)))
        similarity = structural_similarity_index_measure(a, b, data_range=1.0)
        ssim.append(float(similarity[0] if isinstance(similarity, tuple) else similarity))
        if source is not None:
            kept = (_array(source.resize(theirs.size)) - b).abs().amax(1, keepdim=True) < _UNCHANGED
            if kept.any():
                preserved.append(_psnr_within(a, b, kept.expand_as(a)))
    return PictureDrift(_mean(psnr), _mean(ssim), _mean(preserved) if preserved else None)


def _psnr_within(made: torch.Tensor, exact: torch.Tensor, kept: torch.Tensor) -> float:
    return float(peak_signal_noise_ratio(made[kept], exact[kept], data_range=1.0))


def _array(picture: Image.Image) -> torch.Tensor:
    """[1, 3, H, W] in 0…1."""
    array = torch.from_numpy(np.array(picture.convert("RGB")))
    return array.permute(2, 0, 1)[None].float() / 255


def _mean(values: Sequence[float]) -> float:
    """The mean; pictures without any difference count as 100 dB."""
    return float(np.mean(np.minimum(values, 100.0)))
