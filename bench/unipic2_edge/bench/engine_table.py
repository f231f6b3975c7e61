"""`bench engines`: every graph of some bundles compiled for every target, or the reason why not, as one table.

    unipic2-edge bench engines BUNDLE … --targets rtx-20,rtx-30,rtx-40,rtx-50 -o bench/results/<machine>/engines.json

What was compiled before is not compiled again: its record says what it took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from unipic2_edge.engines.build import Built, build
from unipic2_edge.engines.engine_set import Job, Options, backend_of, check_precision, check_target, engine_set
from unipic2_edge.engines.prediction import Prediction, predict
from unipic2_edge.engines.targets import Target
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import UserError
from unipic2_edge.runtime.placement import served_graphs

HEAD = ("graph", "precision", "target", "compiled in", "peak RAM", "engine", "weights", "activations")


@dataclass(frozen=True)
class Row:
    """One graph for one target: what its engine is and what it was predicted to be, or why there is none."""

    graph: str
    precision: str
    target: str
    reason: str | None = None
    shared_with: tuple[str, ...] = ()
    backend: str | None = None
    build_seconds: float | None = None
    build_peak_bytes: int | None = None
    engine_bytes: int | None = None
    weights_bytes: int | None = None
    activation_bytes: int | None = None
    predicted: Prediction | None = None

    def to_dict(self) -> dict[str, object]:
        """JSON-ready fields."""
        return asdict(self)


def engine_rows(bundle: Bundle, targets: Sequence[Target], options: Options) -> list[Row]:
    """Compile every graph for every target that can have it.

    A compiler's refusal is a row like any other; so is a target that this machine cannot compile for.
    """
    rows = [row for target in targets for row in _impossible(bundle, target, options)]
    possible = [target for target in targets if not any(row.target == target.name for row in rows)]
    for job in engine_set(bundle, possible, options) if possible else []:
        rows += _compiled(bundle, job)
    return rows


def _impossible(bundle: Bundle, target: Target, options: Options) -> list[Row]:
    """A row with the reason for each graph, if the target cannot have this bundle at all."""
    try:
        check_target(bundle, target, options)
        engine_set(bundle, [target], options)  # fails when its backend is not installed
    except UserError as error:
        whole = error.problem
    else:
        return []
    rows = []
    for name in served_graphs(bundle.manifest, gpu=target.capability is not None):
        graph = bundle.graph(name)
        component = bundle.manifest.components[graph.component]
        checked = (
            check_precision(precision, target, backend_of(target, options))
            for precision in (component.precision, *component.formats)
        )
        refused = next((problem for problem in checked if problem is not None), None)
        rows.append(Row(name, component.label, target.name, refused.problem if refused else whole))
    return rows


def _compiled(bundle: Bundle, job: Job) -> list[Row]:
    """One engine, a row for each target that it serves."""
    predicted = predict(bundle, job)
    try:
        made = build(bundle, [job])[0]
    except UserError as error:
        return [Row(job.spec.graph, job.spec.precision, target, error.problem) for target in job.targets]
    return [_row(made, target, predicted) for target in job.targets]


def _row(made: Built, target: str, predicted: Prediction) -> Row:
    engine = made.engine
    return Row(
        graph=engine.spec.graph,
        precision=engine.spec.precision,
        target=target,
        shared_with=tuple(name for name in made.targets if name != target),
        backend=f"{engine.spec.backend} {engine.spec.backend_version}",
        build_seconds=engine.build_seconds,
        build_peak_bytes=engine.build_peak_bytes,
        engine_bytes=engine.bytes,
        weights_bytes=engine.weights_bytes,
        activation_bytes=engine.activation_bytes,
        predicted=predicted,
    )


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as a Markdown table; targets that share an engine share a line, and so do those with one reason."""
    head, *lines = (f"| {' | '.join(cells)} |" for cells in table_cells(rows))
    return [head, f"|{'---|' * len(HEAD)}", *lines]


def table_cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The same as cells, the head first."""
    return [HEAD, *(_cells(*merged) for merged in _merged(rows))]


def _merged(rows: Sequence[Row]) -> list[tuple[Row, list[str]]]:
    groups: dict[tuple[object, ...], tuple[Row, list[str]]] = {}
    for row in rows:
        key = (row.graph, row.precision, _reason(row), row.engine_bytes, row.activation_bytes)
        groups.setdefault(key, (row, []))[1].append(row.target)
    return sorted(groups.values(), key=lambda merged: (merged[0].graph, merged[0].precision))


def _reason(row: Row) -> str | None:
    """A reason without the target's own name, so that equal ones fall together."""
    return row.reason and row.reason.replace(row.target, "the target")


def _cells(row: Row, targets: list[str]) -> tuple[str, ...]:
    first = (row.graph, row.precision, ", ".join(targets))
    if row.reason is not None:
        return (*first, f"not possible: {row.reason}", "", "", "", "")
    return (
        *first,
        "" if row.build_seconds is None else f"{row.build_seconds:.1f} s",
        "" if row.build_peak_bytes is None else f"{row.build_peak_bytes / 1e9:.2f} GB",
        "" if row.engine_bytes is None else f"{row.engine_bytes / 1e6:.1f} MB",
        "" if row.weights_bytes is None else f"{row.weights_bytes / 1e6:.1f} MB",
        "" if row.activation_bytes is None else f"{row.activation_bytes / 1e6:.1f} MB",
    )


def prediction_errors(rows: Sequence[Row]) -> dict[str, float]:
    """The largest relative error of each predicted figure over the engines that were compiled."""
    figures = ("engine_bytes", "build_peak_bytes", "weights_bytes", "activation_bytes", "build_seconds")
    return {figure: max(_errors(rows, figure), default=0.0) for figure in figures}


def _errors(rows: Sequence[Row], figure: str) -> list[float]:
    pairs = [(getattr(row, figure), getattr(row.predicted, figure)) for row in rows if row.predicted is not None]
    return [abs(predicted - found) / found for found, predicted in pairs if found and predicted is not None]
