"""The run around the steps: every end of a step is recorded, nothing stops the whole, and a killed run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from unipic2_edge.bench.acceptance.ledger import Ledger, told
from unipic2_edge.bench.acceptance.runner import run_steps
from unipic2_edge.bench.acceptance.step import Setting, Step
from unipic2_edge.runtime.errors import RequestError

#: Steps as a step's process finds them: a module on its path.
MODULE = '''
import os, signal, subprocess, sys, time
from pathlib import Path
from unipic2_edge.bench.acceptance.step import Made, SkippedError
from unipic2_edge.runtime.errors import MemoryRanOutError, MissingDependencyError, WorkError

def count(job):
    """Leaves a mark each time it is called."""
    marks = job.setting.folder / f"{job.step.name.replace('/', '-')}.marks"
    with marks.open("a") as stream:
        stream.write("1")
    return Made(results={"seen": sorted(job.found), "again": job.again}, lines=["counted"])

def crash(job):
    print("about to fall")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGSEGV)

def hang(job):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (job.setting.folder / "child.pid").write_text(str(child.pid))
    time.sleep(600)

def helper(job):
    """Ends well and leaves a process behind, as libraries do."""
    if os.fork() == 0:
        (job.setting.folder / "helper.pid").write_text(str(os.getpid()))
        time.sleep(600)
    while not (job.setting.folder / "helper.pid").exists():
        time.sleep(0.01)
    return Made(results={})

def miss(job):
    import a_package_that_is_not_there

def lack(job):
    raise MissingDependencyError("this ONNX Runtime has no CUDA provider", "pip install it")

def refuse(job):
    raise SkippedError("unsupported GPU: 9.0")

def starve(job):
    raise MemoryRanOutError("the GPU has 1 GB")

def err(job):
    raise WorkError("the disk is full")

def bug(job):
    raise ValueError("first line\\nsecond line")

def judge(job):
    return Made(results={"error": 0.5}, problem="differs by 0.5")
'''


def _step(name: str, function: str, **more: Any) -> Step:
    return Step(name=name, title=name, run=f"acceptance_steps:{function}", **more)


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """A run whose steps are those of `MODULE`."""
    (tmp_path / "acceptance_steps.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    (tmp_path / "work").mkdir()
    return Setting(device="cpu", work=str(tmp_path / "work"), model="tiny-kontext", workloads=(("edit", 64, 64),))


def _ledger(tmp_path: Path, setting: Setting) -> Ledger:
    return Ledger(tmp_path / "accept.json", told(setting), {"processor": "one", "cores": 2})


def _stored(tmp_path: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((tmp_path / "accept.json").read_text(encoding="utf-8"))
    return {step["name"]: step for step in found["results"]["steps"]}


def _gone(pid: int) -> bool:
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


ENDS = {
    "crash": ("failed", "its process was ended by SIGSEGV: about to fall"),
    "miss": ("skipped", "missing package: a_package_that_is_not_there"),
    "lack": ("skipped", "missing package: this ONNX Runtime has no CUDA provider (pip install it)"),
    "refuse": ("skipped", "unsupported GPU: 9.0"),
    "starve": ("skipped", "too little memory: the GPU has 1 GB"),
    "err": ("failed", "the disk is full"),
    "bug": ("failed", "ValueError: first line"),
    "judge": ("failed", "differs by 0.5"),
    "nowhere": ("failed", "AttributeError: module 'acceptance_steps' has no attribute 'nowhere'"),
}


def test_every_end_of_a_step_is_recorded_and_the_next_one_runs(tmp_path: Path, setting: Setting) -> None:
    steps = [_step(f"a/{name}", name) for name in ENDS]
    steps += [_step("a/absent", "count", needs=("json", "tensorrt_of_mars")), _step("a/last", "count")]
    seen: list[str] = []
    run_steps(setting, steps, _ledger(tmp_path, setting), 60, done=lambda record: seen.append(record.name))
    stored = _stored(tmp_path)
    assert seen == [step.name for step in steps] == list(stored)
    assert {name: (stored[f"a/{name}"]["status"], stored[f"a/{name}"]["reason"]) for name in ENDS} == ENDS
    assert stored["a/absent"]["reason"] == "missing package: tensorrt_of_mars"
    assert stored["a/judge"]["results"] == {"error": 0.5}  # a failure keeps its figures
    assert stored["a/last"]["status"] == "passed"


def test_a_step_that_hangs_is_ended_with_its_children(tmp_path: Path, setting: Setting) -> None:
    run_steps(setting, [_step("a/hang", "hang"), _step("a/next", "count")], _ledger(tmp_path, setting), 3)
    stored = _stored(tmp_path)
    assert stored["a/hang"]["reason"] == "did not end within 3 s"
    assert stored["a/next"]["status"] == "passed"
    assert _gone(int((setting.folder / "child.pid").read_text()))


def test_what_a_step_leaves_running_is_ended(tmp_path: Path, setting: Setting) -> None:
    run_steps(setting, [_step("a/helper", "helper")], _ledger(tmp_path, setting), 60)
    assert _stored(tmp_path)["a/helper"]["status"] == "passed"
    assert _gone(int((setting.folder / "helper.pid").read_text()))


def test_done_steps_stay_done_and_again_does_what_it_names_with_all_that_builds_on_it(
    tmp_path: Path, setting: Setting
) -> None:
    steps = [
        _step("a/first", "count"),
        _step("b/bad", "err"),
        _step("b/after-bad", "count", after=("b/bad",)),
        _step("c/user", "count", after=("a/first",), uses=("b/bad",)),
    ]
    for _ in range(2):
        run_steps(setting, steps, _ledger(tmp_path, setting), 60)
    assert _stored(tmp_path)["b/after-bad"]["reason"] == "b/bad failed: the disk is full"
    assert _stored(tmp_path)["c/user"]["results"] == {"seen": ["a/first"], "again": False}
    assert (setting.folder / "a-first.marks").read_text() == "1"
    run_steps(setting, steps, _ledger(tmp_path, setting), 60, again="a")
    assert (setting.folder / "a-first.marks").read_text() == "11"
    assert (setting.folder / "c-user.marks").read_text() == "11"
    assert _stored(tmp_path)["c/user"]["results"]["again"] is True
    mended = [steps[0], _step("b/bad", "count"), *steps[2:]]
    run_steps(setting, mended, _ledger(tmp_path, setting), 60, again="failed")
    assert {name: step["status"] for name, step in _stored(tmp_path).items()} == {step.name: "passed" for step in steps}
    assert (setting.folder / "a-first.marks").read_text() == "11"
    with pytest.raises(RequestError, match="nothing called 'd'"):
        run_steps(setting, steps, _ledger(tmp_path, setting), 60, again="failed,d")


RUN = """
import sys, json
from pathlib import Path
import msgspec
from unipic2_edge.bench.acceptance.ledger import Ledger, told
from unipic2_edge.bench.acceptance.runner import run_steps
from unipic2_edge.bench.acceptance.step import Setting, Step
setting, steps = msgspec.json.decode(sys.argv[1], type=tuple[Setting, list[Step]])
run_steps(setting, steps, Ledger(Path(sys.argv[2]), told(setting), {"processor": "one", "cores": 2}), 60)
"""


def test_a_killed_run_loses_the_step_at_hand_alone(tmp_path: Path, setting: Setting) -> None:
    import msgspec

    steps = [_step("a/first", "count"), _step("a/hang", "hang"), _step("a/last", "count")]
    request = msgspec.json.encode((setting, steps)).decode()
    run = subprocess.Popen([sys.executable, "-c", RUN, request, str(tmp_path / "accept.json")])
    mark = setting.folder / "child.pid"
    while not (mark.exists() and mark.read_text()):
        assert run.poll() is None
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert _gone(int(mark.read_text())), "the step's process must not outlive its parent"
    assert list(_stored(tmp_path)) == ["a/first"]
    run_steps(setting, [steps[0], _step("a/hang", "count"), steps[2]], _ledger(tmp_path, setting), 60)
    assert [step["status"] for step in _stored(tmp_path).values()] == ["passed"] * 3
    assert (setting.folder / "a-first.marks").read_text() == "1"


def test_a_ledger_of_something_else_is_refused(tmp_path: Path, setting: Setting) -> None:
    _ledger(tmp_path, setting).write()
    import msgspec

    with pytest.raises(RequestError, match="of a run with another layers"):
        _ledger(tmp_path, msgspec.structs.replace(setting, layers=2))
    _ledger(tmp_path, msgspec.structs.replace(setting, seconds=1.0))  # how long is no matter
    for content, said in (("{", "damaged"), ("[]", "damaged"), ('{"benchmark": "quality"}', "another report")):
        (tmp_path / "accept.json").write_text(content, encoding="utf-8")
        with pytest.raises(RequestError, match=said):
            _ledger(tmp_path, setting)
