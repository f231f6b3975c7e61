"""Loads as a report holds them, and as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..statistics import percentiles, spread
from .measure import Loaded, Throughput


def load_record(loaded: Loaded) -> dict[str, Any]:
    """One load: pictures a second, seconds of a batch, joules a picture where a meter answered all the time."""
    record = loaded.load.record()
    if loaded.refused is not None:
        return record | {"refused": loaded.refused}
    bursts = [burst for burst, _ in loaded.bursts]
    record |= {
        "batches_of_a_burst": loaded.batches,
        "pictures_per_second": spread([burst.per_second for burst in bursts]).to_dict(),
        "seconds_of_a_batch": percentiles([seconds for burst in bursts for seconds in burst.batches]).to_dict(),
        "samples": [burst.per_second for burst in bursts],
    }
    per_picture = [energy.total / burst.pictures for burst, energy in loaded.bursts if energy.total is not None]
    if not per_picture:
        return record
    meters = loaded.bursts[0][1].joules
    return record | {
        "joules_a_picture": spread(per_picture).to_dict(),
        "joules_a_picture_by_meter": {
            name: spread([energy.joules[name] / burst.pictures for burst, energy in loaded.bursts]).to_dict()
            for name in meters
            if all(name in energy.joules for _, energy in loaded.bursts)
        },
        "pictures_a_joule": spread([1 / joules for joules in per_picture]).to_dict(),
    }


def energy_record(found: Throughput) -> dict[str, Any]:
    """Who measured energy and who could not, the power at rest, and meters that failed meanwhile."""
    failed = {
        name: reason
        for loaded in found.loads
        for _, energy in loaded.bursts
        for name, reason in energy.failed.items()
    }  # fmt: skip
    return found.meters.record() | {"idle_watts": found.idle_watts, "failed": failed}


def throughput_lines(points: Sequence[dict[str, Any]], energy: dict[str, Any]) -> list[str]:
    """For people: a line for each load, then what is known of energy."""
    width = max(len(point["name"]) for point in points)
    lines = [f"{'':<{width}}{'pictures/s':>22}{'a batch':>12}{'J a picture':>13}{'pictures/J':>12}"]
    for point in points:
        if "refused" in point:
            lines.append(f"{point['name']:<{width}}  not run: {point['refused']}")
            continue
        rate, batch = point["pictures_per_second"], point["seconds_of_a_batch"]["p50"]
        shown = f"{rate['median']:.3g} ({rate['low']:.3g}–{rate['high']:.3g})"
        joules = f"{point['joules_a_picture']['median']:.3g}" if "joules_a_picture" in point else "-"
        per_joule = f"{point['pictures_a_joule']['median']:.3g}" if "pictures_a_joule" in point else "-"
        lines.append(f"{point['name']:<{width}}{shown:>22}{1e3 * batch:>9.1f} ms{joules:>13}{per_joule:>12}")
    return [*lines, *energy_lines(energy)]


def energy_lines(energy: dict[str, Any]) -> list[str]:
    """Where the joules come from, or why there are none."""
    lines = [
        f"energy of {meter['name']}: {meter['scope']}, {energy['idle_watts'].get(meter['name'], 0):.1f} W at rest"
        for meter in energy["meters"]
    ]
    lines += [f"{name} stopped answering: {reason}" for name, reason in energy["failed"].items()]
    lines += [f"energy that cannot be read: {reason}" for reason in energy["unreadable"]]
    return lines
