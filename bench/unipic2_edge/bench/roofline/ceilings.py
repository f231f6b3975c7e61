"""A device's measured limits: the fastest large matrix product in each number format, and the fastest copy.

On a processor the product runs through the same libraries as bundles do (ONNX Runtime, OpenVINO), and the better one
is the limit; on a GPU through PyTorch, whose cuBLAS kernels are NVIDIA's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from unipic2_edge.runtime.device import Device
from unipic2_edge.runtime.errors import MissingDependencyError
from unipic2_edge.runtime.onnx_session import EXACT_INT8, import_onnxruntime
from unipic2_edge.runtime.openvino_session import core, has_bfloat16

from ..machine import machine
from .limits import Limits
from .one_product import one_product

SIZE = 2048
_SECONDS = 0.5
_COPIED = 2**28  # bytes, far above every cache
#: What runs in another format where a processor has no unit for its own.
_EMULATED = ("bfloat16", "float16", "int8", "fp8", "int4", "nvfp4")
_GPU_SIZE = 8192

Run = Callable[[], object]


def measure_limits(device: Device, threads: int, size: int = SIZE) -> Limits | None:
    """A device's limits; None for a GPU where PyTorch is not installed or does not know it."""
    if device.kind != "cpu":
        return _gpu_limits(device)
    products = dict(_processor_products(size, threads))
    rates: dict[str, float] = {}
    for (name, _), run in products.items():
        rates[name] = max(rates.get(name, 0.0), 2 * size**3 / best_seconds(run))
    for name in _EMULATED:
        rates.setdefault(name, rates["float32"])
    libraries = ", ".join(dict.fromkeys(library for _, library in products))
    how = f"measured: products of {size}×{size} through {libraries}, threads: {threads}; copies of {_COPIED >> 20} MiB"
    return Limits(str(machine()["processor"]), how, rates, copy_bandwidth(threads))


def best_seconds(run: Run, seconds: float = _SECONDS) -> float:
    """The shortest of the runs that fit into some seconds, at least three, after one to warm up."""
    run()
    found: list[float] = []
    while len(found) < 3 or sum(found) < seconds:
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


def copy_bandwidth(threads: int, amount: int = _COPIED) -> float:
    """Bytes a second, read and written, of a copy by so many threads."""
    source, target = np.ones(amount, np.uint8), np.zeros(amount, np.uint8)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        return 2 * amount / best_seconds(lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts)))


def _processor_products(size: int, threads: int) -> Iterator[tuple[tuple[str, str], Run]]:
    """((number format, library), run) of every product that the installed libraries can do."""
    feed = {"x": np.random.default_rng(1).standard_normal((size, size)).astype(np.float32)}
    for name in ("float32", "int8"):
        model = one_product(size, name).SerializeToString()
        yield (name, "ONNX Runtime"), _onnxruntime(model, feed, threads)
        try:
            yield (name, "OpenVINO"), _openvino(model, feed, threads, "f32")
            if name == "float32" and has_bfloat16():
                yield ("bfloat16", "OpenVINO"), _openvino(model, feed, threads, "bf16")
        except MissingDependencyError:
            continue


def _onnxruntime(model: bytes, feed: Mapping[str, Any], threads: int) -> Run:
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry(EXACT_INT8, "1")
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feed)


def _openvino(model: bytes, feed: Mapping[str, Any], threads: int, precision: str) -> Run:
    properties = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    request = core().compile_model(core().read_model(model), "CPU", properties).create_infer_request()
    return lambda: request.infer(feed)


def _gpu_limits(device: Device) -> Limits | None:
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available() or device.index >= torch.cuda.device_count():
        return None
    with torch.cuda.device(device.index):
        rates = {name: 2 * _GPU_SIZE**3 / best_seconds(run) for name, run in torch_products(torch, "cuda", _GPU_SIZE)}
        source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        bandwidth = 2 * source.numel() / best_seconds(_synchronised(torch, "cuda", lambda: target.copy_(source)))
    how = f"measured: products of {_GPU_SIZE}×{_GPU_SIZE} and copies of 1 GiB through PyTorch {torch.__version__}"
    return Limits(device.name, how, rates, bandwidth)


def torch_products(torch: Any, device: str, size: int) -> Iterator[tuple[str, Run]]:
    """(number format, run) on "cuda" or "cpu"; a format that the device or this PyTorch cannot multiply is left out."""
    for name in ("float32", "float16", "bfloat16", "int8", "fp8"):
        run = _synchronised(torch, device, _torch_product(torch, device, size, name))
        try:
            run()
        except (RuntimeError, NotImplementedError):  # "requires compute capability", "not supported on CPU"
            continue
        yield name, run


def _torch_product(torch: Any, device: str, size: int, name: str) -> Run:
    """One product; the right side of 8-bit ones is stored by columns, as their kernels want it."""
    if name in ("int8", "fp8"):
        whole = torch.randint(-9, 9, (size, size), device=device)
        if name == "int8":
            codes = whole.to(torch.int8)
            return lambda: torch._int_mm(codes, codes.t())
        eight, one = whole.to(torch.float8_e4m3fn), torch.tensor(1.0, device=device)
        return lambda: torch._scaled_mm(eight, eight.t(), one, one, out_dtype=torch.bfloat16)
    left, right = (torch.randn(size, size, device=device).to(getattr(torch, name)) for _ in range(2))
    return lambda: left @ right


def _synchronised(torch: Any, device: str, run: Run) -> Run:
    def whole() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    return whole
