"""Training runs in processes of their own, cheaply: a fork server imports torch and the libraries once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # a forked process imports this module by its name
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["unipic2_edge.training.loop.trainer", "unipic2_edge.training.denoiser"])

#: What training/configs/fsdp2-*.yaml say, as accelerate's launcher hands it on.
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def settings(checkpoint: Path, **changes: object) -> list[str]:
    """`--set` options for a tiny denoiser; names with two underscores for dots."""
    values: dict[str, object] = {
        "init": checkpoint,
        "config": "tiny-kontext",
        "batch_size": 2,
        "gradient_accumulation": 2,
        "ema_decay": 0.9,
        "data.cached_pairs": 16,
        "data.sizes": "[[64, 64]]",
        "data.size_weights": "[1.0]",
        "optimizer.name": "adamw",
        "optimizer.lr": 1e-3,
        "schedule.warmup": 2,
        "schedule.decay": 0,
        "logging.every": 1,
        "logging.samples_every": 0,
    }
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    return [f"{key}={value}" for key, value in values.items()]


def start(
    output: Path, options: list[str], rank: int = 0, world: int = 1, port: int = 0, extra: dict[str, str] | None = None
) -> tuple[ForkServerProcess, Any]:
    """One process of a run, and the number of the step that it is at."""
    step = _CONTEXT.Value("q", -1, lock=False)
    environment = {"OMP_NUM_THREADS": "1", **(extra or {})}
    if world > 1:
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": "2"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    process = _CONTEXT.Process(target=_train, args=(output, options, environment, step, list(sys.path)))
    process.start()
    return process, step


def run(output: Path, options: list[str], world: int = 1, extra: dict[str, str] | None = None) -> None:
    """A whole run, in one process or several."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(output, options, rank, world, port, extra)[0] for rank in range(world)]
    try:
        for process in processes:
            process.join(240)
        errors = [path.read_text() for path in output.parent.glob(f"{output.name}-error-*")]
        assert [process.exitcode for process in processes] == [0] * world, errors
    finally:
        for process in processes:
            process.kill()


def _train(output: Path, options: list[str], environment: dict[str, str], step: Any, paths: list[str]) -> None:
    sys.path[:] = paths
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import torch

    from unipic2_edge.training.loop.trainer import Trainer
    from unipic2_edge.training.recipe import load_recipe
    from unipic2_edge.training.stages import make_stage

    torch.set_num_threads(1)
    try:
        recipe = load_recipe("shapes-kontext", options)
        stage = make_stage(recipe, output)
        stage.losses = _counting(stage.losses, step)  # type: ignore[method-assign]
        stage.samples = lambda folder, step: {"drawn": _drawn(stage.model)}  # type: ignore[method-assign]
        stage.flops = lambda: 0.0  # type: ignore[method-assign]
        Trainer(recipe, stage, output, progress=False).run()
    except BaseException:
        output.with_name(f"{output.name}-error-{os.getpid()}").write_text(traceback.format_exc())
        raise


def _drawn(model: Any) -> float:
    """What the (averaged) weights make of always the same input."""
    import torch

    noise = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    told = torch.ones(1, 33, 192), torch.ones(1, 192)
    return float(model(noise, *told, torch.full((1,), 500.0), return_dict=False)[0].square().mean())


def _counting(losses: Callable[..., Any], counter: Any) -> Callable[..., Any]:
    def counted(step: int, device: Any) -> Any:
        counter.value = step
        return losses(step, device)

    return counted
