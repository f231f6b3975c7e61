"""`bench accept`: what a device can do, step by step; nothing stops the whole, and the same command goes on.

unipic2-edge bench accept                              # the GPU that is here, or the processor
unipic2-edge bench accept --device cpu -o results/mine --only environment,correctness
unipic2-edge bench accept --again failed,skipped       # after something was installed
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_edge.runtime.cli import Outcome, add_common_arguments
from unipic2_edge.runtime.errors import RequestError, WorkError

if TYPE_CHECKING:
    from unipic2_edge.runtime.device import Device

    from .ledger import Ledger
    from .step import Setting, Step

LIMIT = 300.0
PAGE = "accept.html"
_PEERS = ("eager", "compile")
_CHECKOUT = Path(__file__).resolve().parents[4]
_CHECKPOINTS = _CHECKOUT / "training" / "checkpoints"
_FULL, _TINY = "unipic2-sd3.5m-kontext", "tiny-kontext"


def add_accept(kinds: Any) -> None:
    """The command's arguments."""
    accept = kinds.add_parser("accept", help="what this GPU (or processor) can do, step by step, as JSON and a page")
    accept.add_argument("-o", "--output", metavar="DIR", type=Path, help="default: bench/results/<device>")
    accept.add_argument("--work", metavar="DIR", type=Path, help="bundles and engines (default: accept-work/<device>)")
    accept.add_argument("--device", metavar="NAME", default="auto", help="auto, gpu:0, … or cpu")
    accept.add_argument("--only", metavar="GROUP,GROUP", help="of the table: environment, limits, correctness, …")
    accept.add_argument(
        "--again", metavar="WHAT", nargs="?", const="all", help="what is done again: all, failed, skipped, a group …"
    )
    accept.add_argument("--limit", metavar="SECONDS", type=float, default=LIMIT, help=f"of a step (default: {LIMIT:g})")
    accept.add_argument("--model", metavar="CONFIG", help=f"timed with random weights ({_FULL}; {_TINY} on a cpu)")
    accept.add_argument("--layers", metavar="N", type=int, help="of that model, where the whole is too much")
    accept.add_argument("--sizes", metavar="WxH,WxH", help="of its pictures (512x512,1024x1024; 64x64 on a cpu)")
    accept.add_argument("--small", metavar="DIR", type=Path, help="a checkpoint that draws (default: the shipped)")
    accept.add_argument("--words", metavar="DIR", type=Path, help="one that answers (default: the shipped)")
    accept.add_argument("--peers", metavar="A,B", default=",".join(_PEERS), help="of PyTorch (eager,compile)")
    accept.add_argument("--prompts", metavar="N", type=int, default=36, help="of each task (default: 36)")
    accept.add_argument("--seconds", metavar="S", type=float, default=30.0, help="a measurement takes (default: 30)")
    accept.add_argument("--threads", metavar="K", type=int, help="CPU threads (default: one per core)")
    add_common_arguments(accept)


def accept_outcome(arguments: argparse.Namespace) -> Outcome:
    """Do every step that is not done, then write the page.

    Raises:
        RequestError: an argument that cannot be; a report of other settings stands there; another run is at work.
        WorkError: a step failed; report and page say which, and why.
    """
    from filelock import FileLock, Timeout

    from unipic2_edge.runtime.files import output_errors

    from ..machine import machine
    from .ledger import NAME, Ledger, told
    from .table import steps_of

    device = _device(arguments.device)
    setting = _setting(arguments, device)
    steps = _chosen(steps_of(setting), arguments.only)
    output = arguments.output or _results() / device_folder(device)
    for folder in (output, setting.folder):
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    gpus = {} if device.kind == "cpu" else {"gpus": [device.describe()]}
    try:
        with FileLock(setting.folder / ".lock", timeout=0):
            ledger = Ledger(output / NAME, told(setting), machine() | gpus)
            _run(arguments, setting, steps, ledger)
    except Timeout:
        problem = f"another run is at work in {setting.folder}"
        raise RequestError(problem, "wait for it, or give another --work") from None
    _write_page(ledger, output / PAGE)
    return _outcome(ledger, output)


def _run(arguments: argparse.Namespace, setting: Setting, steps: list[Step], ledger: Ledger) -> None:
    """The steps, with a bar; the report is there from the first moment, and says what it is of."""
    from unipic2_edge.runtime.progress import progress

    from .runner import run_steps

    left = sum(step.name not in ledger.records for step in steps)
    ledger.write()
    with progress(left or None, "step", arguments) as advance:
        run_steps(setting, steps, ledger, arguments.limit, arguments.again, lambda record: advance(record.name))


def _write_page(ledger: Ledger, path: Path) -> None:
    """The page, of the report as it stands on disk."""
    from unipic2_edge.runtime.files import write_bytes

    from ..page import page
    from ..reporting.acceptance_kind import acceptance_lead, acceptance_sections, acceptance_tiles
    from ..reporting.stored import read_reports

    (report,) = read_reports([ledger.path])
    title, lead = f"Acceptance of {device_name(report.machine)}", acceptance_lead(report)
    write_bytes(path, page(title, lead, acceptance_tiles(report), acceptance_sections(report)).encode())


def _outcome(ledger: Ledger, output: Path) -> Outcome:
    counts = {status: ledger.count(status) for status in ("passed", "failed", "skipped")}
    lines = [
        f"{record.status:<8}{record.seconds:>8.1f} s  {record.name}{f': {record.reason}' if record.reason else ''}"
        for record in ledger.records.values()
    ]
    lines += [f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped; see {output / PAGE}"]
    if counts["failed"]:
        failed = [record for record in ledger.records.values() if record.status == "failed"]
        first = f"{failed[0].name}: {failed[0].reason}"
        raise WorkError(
            f"{len(failed)} of {len(ledger.records)} steps failed, the first: {first}",
            f"{output / PAGE} says the rest; `--again failed` tries them again",
        )
    return Outcome({**counts, "report": str(ledger.path), "page": str(output / PAGE)}, lines)


def _device(text: str) -> Device:
    """The device that was asked for; "auto" is the first GPU, else the processor.

    Raises:
        RequestError: there is none of that name.
    """
    from unipic2_edge.runtime.device import find_gpus, parse_device, processor

    wanted = parse_device(text)
    if wanted.kind == "cpu":
        return processor()
    found = find_gpus()
    if wanted.index < len(found):
        return found[wanted.index]
    if wanted.kind == "auto":
        return processor()
    raise RequestError(f"there is no GPU {wanted.index}: {len(found)} were found", "see: unipic2-edge doctor")


def _setting(arguments: argparse.Namespace, device: Device) -> Setting:
    """The arguments as a setting, with the device's defaults.

    Raises:
        RequestError: one of them cannot be.
    """
    from unipic2_edge.runtime.pictures import parse_size

    from .step import Setting

    on_gpu = device.kind == "gpu"
    for name in ("prompts", "limit", "seconds", "layers", "threads"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise RequestError(f"--{name} {value:g} measures nothing", "use more than 0")
    peers = tuple(arguments.peers.split(","))
    if set(peers) - set(_PEERS) or "eager" not in peers:
        raise RequestError(f"--peers {arguments.peers} cannot be", "use eager, or eager,compile")
    sizes = arguments.sizes or ("512x512,1024x1024" if on_gpu else "64x64")
    loads = [(task, *parse_size(size)) for size in sizes.split(",") for task in ("generate", "edit")]
    model = arguments.model or (_FULL if on_gpu else _TINY)
    _check_model(model, arguments.layers)
    return Setting(
        device=f"gpu:{device.index}" if on_gpu else "cpu",
        capability=device.capability,
        work=str((arguments.work or Path("accept-work") / device_folder(device)).resolve()),
        small=_checkpoint(arguments.small, "shapes-kontext"),
        words=_checkpoint(arguments.words, "shapes-metaquery"),
        model=model,
        layers=arguments.layers,
        workloads=tuple(loads),
        peers=peers,
        prompts=arguments.prompts,
        seconds=arguments.seconds,
        threads=arguments.threads,
        checkout=str(_CHECKOUT) if (_CHECKOUT / "tests").is_dir() else None,
    )


def _check_model(name: str, layers: int | None) -> None:
    """Raises RequestError: there is no Kontext config of that name, or it has not so many layers."""
    from unipic2_edge.training.configs import KONTEXT

    if name not in KONTEXT:
        raise RequestError(f"there is no model {name!r} to time", f"use one of {', '.join(KONTEXT)}")
    whole = KONTEXT[name].transformer["num_layers"]
    if layers is not None and layers > whole:
        raise RequestError(f"{name} has {whole} layers, not {layers}", "use fewer")


def _checkpoint(given: Path | None, name: str) -> str | None:
    """The one that was given, else the shipped one, if this is a checkout.

    Raises:
        CheckpointError: what was given is none.
    """
    from unipic2_edge.training.layout import CheckpointFolder

    if given is not None:
        CheckpointFolder.open(given)
        return str(given.resolve())
    shipped = _CHECKPOINTS / name
    return str(shipped) if shipped.is_dir() else None


def _chosen(steps: list[Step], only: str | None) -> list[Step]:
    """The steps of some groups, and those that they build on.

    Raises:
        RequestError: there is no such group.
    """
    if only is None:
        return steps
    groups, known = {part.strip() for part in only.split(",")}, dict.fromkeys(step.group for step in steps)
    if groups - set(known):
        raise RequestError(f"there is no group {sorted(groups - set(known))[0]!r}", f"use some of {', '.join(known)}")
    wanted: set[str] = set()
    for step in reversed(steps):  # what a step builds on stands before it
        if step.group in groups or step.name in wanted:
            wanted |= {step.name, *step.after}
    return [step for step in steps if step.name in wanted]


def _results() -> Path:
    """Where reports go: the checkout's results if that is where the command is given, else `results`."""
    own = Path("bench") / "results"
    return own if own.is_dir() else Path("results")


def device_folder(device: Device) -> str:
    """A device's folder among the results: "rtx-4090", "h100-80gb-hbm3"; a processor's with its cores."""
    from ..machine import machine

    if device.kind == "gpu":
        return slug(device.name)
    known = machine()
    return f"{slug(str(known['processor']).partition('(avx')[0])}-{known['cores']}core"


def slug(name: str) -> str:
    """A name as a folder's, without what every such device is called."""
    common = ("nvidia", "geforce", "amd", "intel", "r", "tm", "cpu")
    return "-".join(word for word in re.findall(r"[a-z0-9]+", name.lower()) if word not in common) or "device"


def device_name(machine: dict[str, Any]) -> str:
    """What a report is of: its GPU, else its processor."""
    gpus = machine.get("gpus") or []
    return str(gpus[0]).partition(",")[0] if gpus else f"{machine.get('processor')}, {machine.get('cores')} cores"
