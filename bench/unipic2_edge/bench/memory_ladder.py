"""`bench memory`: what a card of 24, 16, 12, 8 or 6 GB holds at once, computed from engines that were compiled.

    unipic2-edge bench memory BUNDLE … --budgets 24,16,12,8,6

Weights and activations are what the compiler reported for the graphs' largest shapes, or its prediction where a
graph is not compiled. Nothing here has run on such a card: the ladder says what fits, not how fast it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unipic2_edge.engines.engine_set import Options, engine_set
from unipic2_edge.engines.prediction import predict
from unipic2_edge.engines.sizes import default_sizes
from unipic2_edge.engines.store import Store
from unipic2_edge.engines.targets import Target
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.memory_plan import MemoryPlan, Need, parse_memory, plan_memory


@dataclass(frozen=True)
class Rung:
    """One budget in bytes: the plan, or why there is none."""

    budget: int
    plan: MemoryPlan | None
    reason: str | None = None


def bundle_needs(bundle: Bundle, target: Target) -> list[Need]:
    """What every graph of a bundle needs on a target: as compiled, else as predicted.

    Raises:
        RequestError, MissingDependencyError: see `engine_set`.
    """
    store, needs = Store(bundle), []
    for job in engine_set(bundle, [target], Options(sizes=default_sizes(bundle.manifest))):
        engine, predicted = store.find(job.spec), predict(bundle, job)
        weights = engine.weights_bytes if engine else predicted.weights_bytes
        activations = engine.activation_bytes if engine else predicted.activation_bytes
        needs.append(Need(job.spec.graph, weights or 0, activations or 0))
    return needs


def assumed(needs: Sequence[Need], amounts: Mapping[str, str]) -> list[Need]:
    """The same needs with some graphs' weights as assumed, for recipes and parts that are not exported yet.

    Raises:
        RequestError: no amount of memory.
    """
    known = {need.graph: need for need in needs}
    for graph, amount in amounts.items():
        activations = known[graph].activations if graph in known else 0
        known[graph] = Need(graph, parse_memory(amount), activations)
    return list(known.values())


def ladder(needs: Sequence[Need], budgets: Sequence[int]) -> list[Rung]:
    """What fits into each budget."""
    return [_rung(needs, budget) for budget in budgets]


def _rung(needs: Sequence[Need], budget: int) -> Rung:
    try:
        return Rung(budget, plan_memory(needs, budget))
    except RequestError as error:
        return Rung(budget, None, error.problem)


def ladder_table(rungs: Sequence[Rung]) -> list[str]:
    """The ladder as a Markdown table."""
    lines = ["| card | at the peak | resident | one after another |", "|---|---|---|---|"]
    for rung in rungs:
        card = f"{rung.budget / 1e9:g} GB"
        if rung.plan is None:
            lines.append(f"| {card} | not possible | {rung.reason} | |")
        else:
            peak = f"{rung.plan.peak_bytes / 1e9:.1f} GB"
            lines.append(f"| {card} | {peak} | {', '.join(rung.plan.resident)} | {', '.join(rung.plan.swapped)} |")
    return lines
