"""Reports as they lie on disk: what `bench KIND -o REPORT.json` wrote, read back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipic2_edge.runtime.errors import RequestError

_FIELDS = ("benchmark", "when", "settings", "results", "machine")
_PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


@dataclass(frozen=True)
class Stored:
    """One report: its fields as `Report.to_dict` gives them, and where it lies."""

    path: Path
    benchmark: str
    when: str
    settings: dict[str, Any]
    results: dict[str, Any]
    machine: dict[str, Any]

    @property
    def title(self) -> str:
        """What was measured, in a line: the benchmark, the file, and of what."""
        names = ("bundle", "checkpoint", "task", "size", "recipe")
        told = [_text(self.settings[name]) for name in names if self.settings.get(name)]
        bundles = self.settings.get("bundles")
        name = self.label if self.label.startswith(self.benchmark) else f"{self.benchmark} {self.label}"
        return ": ".join([name, *([", ".join(told or map(str, bundles or []))] if told or bundles else [])])

    @property
    def label(self) -> str:
        """A short name in a plot: the file's, which its maker chose."""
        return self.path.stem

    def fields(self) -> dict[str, Any]:
        """The report's fields, as `Report.to_dict` gave them."""
        return {name: getattr(self, name) for name in _FIELDS}

    def picture_files(self) -> list[tuple[Path, str]]:
        """The pictures that the report names, each with its words: files beside it.

        Raises:
            RequestError: one is not a picture beside the report.
        """
        named = self.results.get("pictures")
        found = []
        for entry in named if isinstance(named, list) else []:
            file, text = (entry.get("file"), entry.get("text")) if isinstance(entry, dict) else (entry, None)
            found.append((_beside(self.path, file), str(text or Path(str(file)).stem)))
        return found


def picture_kind(path: Path) -> str:
    """The MIME subtype of a picture's file."""
    return _PICTURES[path.suffix.lower()]


def read_reports(paths: Sequence[Path]) -> list[Stored]:
    """Reports by files and folders (with all below them), each once; other JSON in a folder is passed over.

    Raises:
        RequestError: a file is no report, or there is none at all.
    """
    found: dict[Path, Stored] = {}
    for path in paths:
        if path.is_dir():
            found |= {file: report for file in sorted(path.rglob("*.json")) if (report := _parse(file)) is not None}
        else:
            report = _parse(path)
            if report is None:
                raise RequestError(f"{path} is no report", "give what `unipic2-edge bench KIND -o` wrote")
            found[path] = report
    if not found:
        raise RequestError(f"there is no report in {', '.join(map(str, paths))}", "give reports or folders of them")
    return list(found.values())


def damaged(report: Stored, error: Exception) -> RequestError:
    """The error of a report whose fields are not those of its kind."""
    return RequestError(
        f"{report.path} is damaged, or of another version: {type(error).__name__}: {error}", "measure it again"
    )


def _parse(path: Path) -> Stored | None:
    """None where a file is JSON, but no report.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}", "give what `unipic2-edge bench` wrote") from None
    except ValueError:
        raise RequestError(f"{path} is not JSON", "give what `unipic2-edge bench KIND -o` wrote") from None
    if not isinstance(document, dict) or any(name not in document for name in _FIELDS):
        return None
    kinds = (str, str, dict, dict, dict)
    if not all(isinstance(document[name], kind) for name, kind in zip(_FIELDS, kinds, strict=True)):
        return None
    return Stored(path, *(document[name] for name in _FIELDS))


def _beside(report: Path, file: object) -> Path:
    """A picture's path; a report from elsewhere names no file outside its folder."""
    folder = report.parent.resolve()
    path = (folder / str(file)).resolve()
    if not path.is_relative_to(folder) or path.suffix.lower() not in _PICTURES or not path.is_file():
        raise RequestError(f"{report} names {str(file)!r}, which is no picture beside it", "keep them together")
    return path


def _text(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def reports_of(reports: Sequence[Stored], kind: str) -> Iterator[Stored]:
    """Those of one kind."""
    return (report for report in reports if report.benchmark == kind)
