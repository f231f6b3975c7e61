"""The roofline of one run: every stage's work, time, and share of the device's measured and advertised limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from unipic2_edge.runtime.errors import WorkError

from .limits import Limits
from .stages import Bound, Stage, bound_of, formats_of


@dataclass(frozen=True)
class Roofline:
    """A run against its device's limits.

    Attributes:
        stages: what the graphs did; their seconds are those of one call.
        seconds: of the whole run, the median, with what the host did between the graphs.
        measured: the limits that were measured; None on a GPU without PyTorch.
        advertised: those of the data sheet; None where there is none (processors).
    """

    stages: Sequence[Stage]
    seconds: float
    measured: Limits | None
    advertised: Limits | None

    @property
    def limits(self) -> Limits:
        """What the stages are judged by: measured limits before advertised ones.

        Raises:
            WorkError: there are neither.
        """
        found = self.measured or self.advertised
        if found is None:
            raise WorkError(
                "this GPU's limits are unknown: it is in no table, and PyTorch, which measures them, is not here",
                'pip install "unipic2-edge[export]" with a PyTorch for CUDA',
            )
        return found

    @property
    def host_seconds(self) -> float:
        """What is left of the run: tokens, noise, guidance, pictures."""
        return max(0.0, self.seconds - sum(stage_seconds(stage) for stage in self.stages))


def stage_seconds(stage: Stage) -> float:
    """Seconds of all of a stage's calls in one run; 0 where nothing ran."""
    return stage.calls * (stage.seconds or 0.0)


def roofline_record(found: Roofline) -> dict[str, object]:
    """JSON-ready results."""
    return {
        "seconds": found.seconds,
        "host_seconds": found.host_seconds,
        "limits": {
            "measured": None if found.measured is None else found.measured.to_dict(),
            "advertised": None if found.advertised is None else found.advertised.to_dict(),
        },
        "stages": [_stage_record(stage, found) for stage in found.stages],
    }


def _stage_record(stage: Stage, found: Roofline) -> dict[str, object]:
    seconds = stage.seconds or 0.0
    bound = bound_of(stage.work, seconds, found.limits)
    advertised = None if found.advertised is None else bound_of(stage.work, seconds, found.advertised)
    return {
        "name": stage.name,
        "graph": stage.graph,
        "extents": stage.extents,
        "calls": stage.calls,
        "seconds": seconds,
        "work": work_record(stage),
        **asdict(bound),
        "mfu_advertised": None if advertised is None else advertised.mfu,
        "mbu_advertised": None if advertised is None else advertised.mbu,
    }


def work_record(stage: Stage) -> dict[str, object]:
    """The work of one call, JSON-ready."""
    work: dict[str, object] = asdict(stage.work)
    del work["outputs"]
    return work | {"least_bytes": stage.work.least_bytes, "most_bytes": stage.work.most_bytes}


def roofline_lines(found: Roofline) -> list[str]:
    """For people: the limits, then a line for each stage, then what the host took."""
    lines = [line for limits in (found.measured, found.advertised) if limits for line in _limit_lines(limits, found)]
    lines.append(_HEAD)
    lines += [_line(stage, bound_of(stage.work, stage.seconds or 0.0, found.limits), found) for stage in found.stages]
    host = found.host_seconds
    lines.append(f"{'host':<28}{'':>37}{1e3 * host:>11.2f}{_percent(host / found.seconds)}")
    lines += list(_unknown(found.stages))
    return lines


_HEAD = (
    f"{'stage':<28}{'calls':>6}{'GFLOP':>11}{'weights':>10}{'border':>10}{'ms, all':>11}{'share':>7}"
    f"{'MFU':>7}{'MBU':>7}  bound by"
)


def _line(stage: Stage, bound: Bound, found: Roofline) -> str:
    work, seconds = stage.work, stage_seconds(stage)
    cells = [
        f"{stage.name:<28}{stage.calls:>6}{work.operations / 1e9:>11.3f}{_mega(work.weights):>10}",
        f"{_mega(work.border):>10}{1e3 * seconds:>11.2f}{_percent(seconds / found.seconds)}",
        f"{_percent(bound.mfu)}{_percent(bound.mbu)}  {bound.by}",
    ]
    return "".join(cells)


def _percent(share: float | None) -> str:
    return f"{'-' if share is None else f'{100 * share:.1f}%':>7}"


def _limit_lines(limits: Limits, found: Roofline) -> list[str]:
    names = [name for name in formats_of(found.stages) if name in limits.rates]
    rates = ", ".join(f"{limits.rates[name] / 1e12:.3g} TFLOP/s in {name}" for name in names)
    return [f"{limits.device}: {rates}, {limits.bandwidth / 1e9:.3g} GB/s ({limits.source})"]


def _unknown(stages: Iterable[Stage]) -> Iterable[str]:
    for stage in stages:
        if stage.work.unknown:
            nodes: Mapping[str, int] = stage.work.unknown
            listed = ", ".join(f"{count} {name}" for name, count in nodes.items())
            yield f"{stage.name}: not counted, since their shapes are unknown: {listed}"


def _mega(amount: int) -> str:
    return f"{amount / 1e6:.2f} MB"
