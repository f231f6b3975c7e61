"""The front door as scripts see it: outputs, exit codes, two lines for every mistake, JSON as the last line."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unipic2_edge.runtime import cli
from unipic2_edge.runtime.cli import Outcome, main
from unipic2_edge.runtime.pipeline import Pipeline

PROMPT = "a red circle"


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command in an empty folder: (exit code, stdout lines, stderr lines)."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def _run(*words: object) -> tuple[int, list[str], list[str]]:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return _run


def _files() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def test_generate_writes_the_picture_it_reports(run: Any, folder: Path) -> None:
    code, out, err = run("generate", folder, PROMPT, "-o", "o.png", "--seed", 3, "--size", "48x32", "--json")
    assert (code, err, _files()) == (0, [], ["o.png"])
    report = json.loads(out[-1])
    assert report["ok"] is True
    settings = report["pictures"][0]
    assert (settings["path"], settings["seed"], settings["width"], settings["height"]) == ("o.png", 3, 48, 32)
    assert Image.open("o.png").size == (48, 32)
    expected = Pipeline.load(folder).generate(PROMPT, seed=3, width=48, height=32).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open("o.png")), np.asarray(expected))


def test_the_same_seed_gives_the_same_bytes(run: Any, folder: Path) -> None:
    for name in ("one.png", "two.png", "three.png"):
        seed = 4 if name == "three.png" else 3
        assert run("generate", folder, PROMPT, "-o", name, "--seed", seed)[0] == 0
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
    assert Path("one.png").read_bytes() != Path("three.png").read_bytes()


def test_several_pictures_are_numbered(run: Any, folder: Path) -> None:
    code, out, _ = run("generate", folder, PROMPT, "-o", "o.png", "-n", 3, "--seed", 5)
    assert code == 0 and _files() == ["o-1.png", "o-2.png", "o-3.png"]
    assert [line.split() for line in out[:3]] == [[f"o-{i}.png", "seed", str(4 + i)] for i in (1, 2, 3)]
    run("generate", folder, PROMPT, "-o", "alone.png", "--seed", 6)
    assert Path("alone.png").read_bytes() == Path("o-2.png").read_bytes()


def test_every_option_reaches_the_pipeline(run: Any, folder: Path) -> None:
    words = ["--steps", 2, "--guidance", 1.5, "--negative", "white", "--seed", 1, "--device", "cpu", "--threads", 1]
    code, out, _ = run("generate", folder, PROMPT, "-o", "o.png", "--json", *words)
    settings = json.loads(out[-1])["pictures"][0]
    assert code == 0
    assert (settings["num_inference_steps"], settings["guidance_scale"]) == (2, 1.5)
    assert (settings["negative_prompt"], settings["seed"]) == ("white", 1)


def test_edit_and_inspect_a_picture(run: Any, folder: Path) -> None:
    run("generate", folder, PROMPT, "-o", "o.png", "--seed", 3)
    words = ("edit", folder, "o.png", "make the circle blue", "-o", "e.png", "--seed", 3, "--reference", "sample")
    assert run(*words)[0] == 0
    code, out, _ = run("inspect", "e.png", "--json")
    settings = json.loads(out[-1])["settings"]
    assert code == 0 and settings["task"] == "edit" and settings["reference"] == "sample"
    assert settings["prompt"] == "make the circle blue"
    _, lines, _ = run("inspect", "e.png")
    assert ["prompt", "make", "the", "circle", "blue"] in [line.split() for line in lines]


def test_an_edit_follows_the_pictures_shape(run: Any, folder: Path) -> None:
    Image.new("RGB", (400, 190), "white").save("wide.png")
    words = ("edit", folder, "wide.png", PROMPT, "-o", "e.png", "--longer-edge")
    code, _, err = run(*words, "64")
    assert code == 2 and "64x32 is too large" in err[0]  # this bundle ends at 48 pixels
    assert run(*words, "32")[0] == 0
    assert Image.open("e.png").size == (32, 32)


def test_inspect_a_bundle(run: Any, folder: Path) -> None:
    code, out, _ = run("inspect", folder, "--hashes", "--json")
    report = json.loads(out[-1])
    assert code == 0 and report["hashes_checked"] is True and report["engines"] == []
    assert set(report["manifest"]["components"]) >= {"denoiser", "vae"}
    (folder / "weights/vae.safetensors").write_bytes(b"damaged")
    assert run("inspect", folder)[0] == 0
    assert run("inspect", folder, "--hashes")[0] == 2


def test_doctor_says_what_loads(run: Any) -> None:
    import onnxruntime

    code, out, _ = run("doctor", "--json")
    report = json.loads(out[-1])
    assert code == 0 and report["libraries"]["onnxruntime"] == onnxruntime.__version__
    assert report["can_serve"] is True and report["cores"] == os.cpu_count()


def _spoil(folder: Path, relative: str) -> None:
    data = bytearray((folder / relative).read_bytes())
    data[-1] ^= 1
    (folder / relative).write_bytes(data)


MISTAKES: list[tuple[str, list[str], str]] = [
    ("no command", ["paint"], "no command 'paint'"),
    ("no arguments", ["generate"], "required"),
    ("unknown flag", ["generate", "B", "P", "-o", "o.png", "--colour", "red"], "--colour"),
    ("an abbreviated flag", ["generate", "B", "P", "-o", "o.png", "--guid", "1"], "--guid"),
    ("steps that are no number", ["generate", "B", "P", "-o", "o.png", "--steps", "many"], "invalid int value: 'many'"),
    ("size that is none", ["generate", "B", "P", "-o", "o.png", "--size", "big"], "'big' is not WxH"),
    ("size off the grid", ["generate", "B", "P", "-o", "o.png", "--size", "33x32"], "does not fit"),
    ("size zero", ["generate", "B", "P", "-o", "o.png", "--size", "0x0"], "does not fit"),
    ("no steps", ["generate", "B", "P", "-o", "o.png", "--steps", "0"], "0 steps"),
    ("unknown device", ["generate", "B", "P", "-o", "o.png", "--device", "tpu"], "no device 'tpu'"),
    ("no threads", ["generate", "B", "P", "-o", "o.png", "--threads", "0"], "0 threads"),
    ("no pictures", ["generate", "B", "P", "-o", "o.png", "-n", "0"], "0 pictures"),
    ("empty prompt", ["generate", "B", " ", "-o", "o.png"], "prompt is empty"),
    ("long prompt", ["generate", "B", "a red blue circle square", "-o", "o.png"], "5 tokens, at most 4"),
    ("negative seed", ["generate", "B", "P", "-o", "o.png", "--seed", "-1"], "seed"),
    ("missing bundle", ["generate", "nowhere", "P", "-o", "o.png"], "does not exist"),
    ("output in no folder", ["generate", "B", "P", "-o", "no/o.png"], "cannot write no/o.png"),
    ("output is no PNG", ["generate", "B", "P", "-o", "o.jpg"], "not a PNG"),
    ("missing picture", ["edit", "B", "none.png", "P", "-o", "o.png"], "cannot read none.png"),
    ("unknown reference", ["edit", "B", "none.png", "P", "-o", "o.png", "--reference", "x"], "invalid choice: 'x'"),
    (
        "two sizes",
        ["edit", "B", "none.png", "P", "-o", "o.png", "--size", "32x32", "--longer-edge", "32"],
        "both give the size",
    ),
    ("inspect nothing", ["inspect", "nowhere"], "does not exist"),
]


@pytest.mark.parametrize(("words", "problem"), [(w, p) for _, w, p in MISTAKES], ids=[name for name, _, _ in MISTAKES])
def test_a_mistake_is_two_lines_and_changes_nothing(run: Any, folder: Path, words: list[str], problem: str) -> None:
    words = [{"B": str(folder), "P": PROMPT}.get(word, word) for word in words]
    code, out, err = run(*words)
    assert (code, out, len(err), _files()) == (2, [], 2, [])
    assert err[0].startswith("error: ") and problem in err[0]
    assert err[1].startswith("  mend: ") and len(err[1]) > 12
    code, out, err = run(*words, "--json")
    refused = json.loads(out[-1])
    assert (code, refused["ok"]) == (2, False)
    assert problem in refused["error"]["problem"] and set(refused["error"]) == {"problem", "mend", "kind"}


def test_a_damaged_bundle_is_refused_and_writes_nothing(run: Any, folder: Path) -> None:
    _spoil(folder, "weights/denoiser.safetensors")
    code, out, err = run("generate", folder, PROMPT, "-o", "o.png")
    assert (code, out, _files()) == (2, [], [])
    assert "denoiser.safetensors is damaged" in err[0]


def test_a_picture_is_replaced_only_by_force(run: Any, folder: Path) -> None:
    Path("o.png").write_text("mine")
    code, _, err = run("generate", folder, PROMPT, "-o", "o.png")
    assert code == 2 and "is there already" in err[0] and "--force" in err[1]
    assert Path("o.png").read_text() == "mine"
    assert run("generate", folder, PROMPT, "-o", "o.png", "--force")[0] == 0
    assert Image.open("o.png").size == (32, 32)
    Path("p-2.png").write_text("mine")
    assert run("generate", folder, PROMPT, "-o", "p.png", "-n", 2)[0] == 2
    assert _files() == ["o.png", "p-2.png"]


def test_the_output_is_checked_before_the_work(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "generate", lambda *_, **__: pytest.fail("worked first"))
    assert run("generate", folder, PROMPT, "-o", "missing/o.png")[0] == 2


def test_a_full_disk_is_exit_code_1_and_keeps_what_stood(
    run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("o.png").write_text("mine")

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = run("generate", folder, PROMPT, "-o", "o.png", "--force")
    assert code == 1 and "no space left" in err[0]
    assert _files() == ["o.png"] and Path("o.png").read_text() == "mine"


def test_ctrl_c_is_one_mistake_less(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unipic2_edge.runtime.painting.euler_step", interrupted)
    code, out, err = run("generate", folder, PROMPT, "-o", "o.png", "--json")
    assert code == 1 and _files() == [] and "stopped by the user" in err[0]
    assert json.loads(out[-1])["ok"] is False


@pytest.fixture
def borrowed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Namespace], Any]], None]:
    """Put a function in the place of the command `doctor`."""

    def lend(command: Callable[[Namespace], Any]) -> None:
        module: Any = ModuleType("borrowed_commands")
        module.doctor, module.doctor_arguments = command, lambda parser: None
        monkeypatch.setitem(sys.modules, "borrowed_commands", module)
        monkeypatch.setitem(cli.COMMANDS, "doctor", ("borrowed_commands", "help"))

    return lend


def test_errors_of_other_trees_are_recognised_by_their_shape(run: Any, borrowed: Any) -> None:
    class RecipeError(Exception):
        problem, mend, exit_code = "the recipe is wrong", "write another", 2

    def fail(_: Namespace) -> None:
        raise RecipeError

    borrowed(fail)
    assert run("doctor") == (2, [], ["error: the recipe is wrong", "  mend: write another"])


def test_outcomes_of_other_trees_are_accepted(run: Any, borrowed: Any) -> None:
    borrowed(lambda _: Namespace(result={"path": Path("x"), "n": 1}, lines=["one", "two"]))
    assert run("doctor") == (0, ["one", "two"], [])
    assert json.loads(run("doctor", "--json")[1][-1]) == {"ok": True, "path": "x", "n": 1}


@pytest.mark.parametrize(
    ("error", "code", "problem"),
    [
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "torch is not installed"),
        (ZeroDivisionError("division by zero"), 1, "unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_no_traceback_is_shown(run: Any, borrowed: Any, error: Exception, code: int, problem: str) -> None:
    def fail(_: Namespace) -> None:
        raise error

    borrowed(fail)
    found, out, err = run("doctor")
    assert (found, out, err[0]) == (code, [], f"error: {problem}")
    assert all("Traceback" not in line for line in err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_report_that_cannot_be_printed_is_said_in_two_lines() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "unipic2_edge.runtime.cli", "doctor"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: the report cannot be printed: No space left on device",
        "  mend: the work itself is done",
    ]


@pytest.mark.slow
def test_every_command_in_the_table_is_there() -> None:
    for name, (module, text) in cli.COMMANDS.items():
        pytest.importorskip("torch") if "runtime" not in module else None
        commands = cli._import(name)
        parser = ArgumentParser()
        getattr(commands, f"{name}_arguments")(parser)
        assert callable(getattr(commands, name)) and text


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in cli.COMMANDS)
    with pytest.raises(SystemExit) as caught:
        main(["generate", "--help"])
    assert caught.value.code == 0
    assert "--guidance" in capsys.readouterr().out
    assert Outcome({}).lines == []
