"""House rules that no linter holds: sizes of files and functions, what files may say, what documents promise."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from unipic2_edge.runtime.cli import COMMANDS

MAX_FILE = 300
MAX_FUNCTION = 60

#: Spelled in parts, so that this file does not name what it forbids.
FORBIDDEN = {
    "a registry's host": re.compile(r"pypi\." + r"org|pythonhosted\." + r"org|download\.pytorch\." + r"org"),
    "a package index option": re.compile(r"--(extra-)?" + r"index-url"),
    "a path of somebody's machine": re.compile(r"(?<![\w.~])/(?:" + r"home|root|Users|work)/[\w.]"),
}
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".cfg", ".txt", ".sh", ""}


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    """Every function with its lines of code: from the first line of its body after the docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (node.end_lineno or node.lineno) - body[0].lineno + 1 if body else 0
            yield node.name, lines


def test_files_stay_readable_in_one_sitting(root: Path, sources: list[Path]) -> None:
    long = {
        str(path.relative_to(root)): lines
        for path in sources
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE
    }
    assert long == {}


def test_functions_stay_short(root: Path, sources: list[Path]) -> None:
    long = {
        f"{path.relative_to(root)}:{name}": lines
        for path in sources
        for name, lines in _functions(path)
        if lines > MAX_FUNCTION
    }
    assert long == {}


def test_every_module_says_what_it_is(root: Path, sources: list[Path]) -> None:
    mute = [
        str(path.relative_to(root))
        for path in sources
        if ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None
    ]
    assert mute == []


@pytest.mark.parametrize("what", FORBIDDEN)
def test_tracked_text_names_no(what: str, root: Path, tracked: list[Path]) -> None:
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()[:120]}"
        for path in tracked
        if path.suffix in TEXT and path.stat().st_size < 1_000_000
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if FORBIDDEN[what].search(line)
    ]
    assert found == []


def test_every_folder_has_a_readme(root: Path) -> None:
    for folder in ("training", "export", "engines", "runtime", "bench", "tests"):
        readme = root / folder / "README.md"
        assert readme.is_file(), f"{folder}/ does not say what lives in it"
        assert len(readme.read_text(encoding="utf-8")) > 200


def test_documents_name_only_commands_that_exist(root: Path, tracked: list[Path]) -> None:
    make = set(re.findall(r"^([a-z][\w-]*):", (root / "Makefile").read_text(encoding="utf-8"), re.M))
    unknown = []
    for path in tracked:
        if path.suffix != ".md" or path.name == "CHANGELOG.md":
            continue
        text = path.read_text(encoding="utf-8")
        for line in _code(text):
            unknown += [
                (path.name, name) for name in re.findall(r"^unipic2-edge ([a-z]+)", line) if name not in COMMANDS
            ]
            unknown += [(path.name, name) for name in re.findall(r"^make ([a-z][\w-]*)", line) if name not in make]
    assert unknown == []


def test_the_readme_names_every_command(root: Path) -> None:
    spans = " ".join(re.findall(r"`([^`\n]+)`", (root / "README.md").read_text(encoding="utf-8")))
    assert [name for name in COMMANDS if not re.search(rf"\b{name}\b", spans)] == []


def _code(text: str) -> list[str]:
    """The lines of code blocks, fenced or indented, and the spans of code."""
    fenced = [line for block in re.findall(r"```.*?```", text, re.S) for line in block.splitlines()]
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    return [line.strip() for line in [*fenced, *indented, *re.findall(r"`([^`\n]+)`", text)]]


def test_the_ci_entry_runs_the_test_command(root: Path) -> None:
    entry = root / ".ci" / "run"
    assert entry.stat().st_mode & 0o111, "not executable"
    assert "make test" in entry.read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", str(entry)], check=False).returncode == 0
