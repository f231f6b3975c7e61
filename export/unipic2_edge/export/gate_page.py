"""What the gate found, for people."""

from __future__ import annotations

from .quantization.gate import Judgement, StageDrift

_HEAD = f"{'stage':<20} {'velocity':>9} {'PSNR':>8} {'SSIM':>7} {'unedited':>9}"


def gate_lines(judged: Judgement) -> list[str]:
    """A table of stages, the scores, and what missed its threshold."""
    lines = [_HEAD, *(_stage(stage) for stage in judged.stages)]
    for task, lost in judged.scores.items():
        lines.append(
            f"{task}: {lost.candidate:.1f} of 100 right, {lost.reference:.1f} before "
            f"(lost {lost.points:.1f} points, beyond doubt {max(0.0, lost.at_least):.1f})"
        )
    return lines + [f"missed: {what}" for what in judged.missed]


def _stage(stage: StageDrift) -> str:
    if stage.velocity is None:
        return f"{stage.stage:<20} not run: {stage.reason}"
    line = f"{stage.stage:<20} {stage.velocity:9.4f}"
    if stage.pictures is None:
        return line
    kept = stage.pictures.preserved_psnr
    preserved = "" if kept is None else f"{kept:6.1f} dB"
    return f"{line} {stage.pictures.psnr:5.1f} dB {stage.pictures.ssim:7.4f} {preserved:>9}"
