"""`bench report`: reports rendered, merged, and indexed.

unipic2-edge bench report bench/results/epyc-4core -o report.html
unipic2-edge bench report latency.json quality.json -o report.md
unipic2-edge bench report bench/results --index
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_edge.runtime.cli import Outcome, add_common_arguments
from unipic2_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from .stored import Stored


def add_report(kinds: Any) -> None:
    """The command's arguments."""
    report = kinds.add_parser("report", help="reports as a page with plots, as Markdown, or as an index")
    report.add_argument("reports", metavar="REPORT.json", type=Path, nargs="+", help="files, or folders of them")
    report.add_argument("-o", "--output", metavar="REPORT.html", type=Path, help="report.html, or report.md")
    report.add_argument("--title", metavar="TEXT", default="Measured")
    report.add_argument("--index", action="store_true", help="write the folder's README.md instead")
    add_common_arguments(report)


def report_outcome(arguments: argparse.Namespace) -> Outcome:
    """Render the reports; without an output, the Markdown goes to the terminal.

    Raises:
        RequestError: a report cannot be read or shown, or the output is neither HTML nor Markdown.
        MissingDependencyError: matplotlib is not installed.
    """
    from unipic2_edge.runtime.files import write_bytes

    from .stored import read_reports

    found = read_reports(arguments.reports)
    if arguments.index:
        path, text = _index(arguments, found)
    else:
        path, text = arguments.output, _rendered(arguments, found)
    if path is None:
        return Outcome({"reports": len(found)}, text.splitlines())
    write_bytes(path, text.encode())
    return Outcome({"reports": len(found), "output": str(path)}, [f"{path}: {len(found)} reports"])


def _index(arguments: argparse.Namespace, found: Sequence[Stored]) -> tuple[Path, str]:
    from .index import NAME, index

    if len(arguments.reports) != 1 or not arguments.reports[0].is_dir():
        raise RequestError("an index is of one folder", "give one, like bench/results")
    folder = arguments.reports[0]
    return arguments.output or folder / NAME, index(folder, found)


def _rendered(arguments: argparse.Namespace, found: Sequence[Stored]) -> str:
    from ..page import page
    from .document import document
    from .lead import lead, tiles
    from .markdown import markdown

    kind = ".md" if arguments.output is None else arguments.output.suffix.lower()
    if kind not in (".html", ".md"):
        raise RequestError(f"{arguments.output} is neither .html nor .md", "name one of them with -o")
    parts = document(found)
    if kind == ".md":
        return markdown(arguments.title, lead(found), parts)
    sections = [
        (part.heading if index == 0 else "", content) for part in parts for index, content in enumerate(part.contents)
    ]
    return page(arguments.title, lead(found), tiles(found), sections)
