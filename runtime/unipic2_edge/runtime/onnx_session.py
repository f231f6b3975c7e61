"""The ONNX Runtime adapter: a graph on its CPU or its CUDA provider.

A session is opened from the engine of the `cpu` target when the bundle was built for it, else from the plain graph.
Either way the graph is handed over as verified bytes and the weights folder is named explicitly, so that
ONNX Runtime opens no file by a path that the graph chose.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from .bundle import Bundle
from .engine import Engine, read_engine, read_engine_bytes, read_target
from .errors import MemoryRanOutError, MissingDependencyError, WorkError
from .session import Array, Arrays, check_inputs

EXACT_INT8 = "session.x64quantprecision"
logger = logging.getLogger(__name__)


class OnnxRuntimeSession:
    """A graph on one of ONNX Runtime's providers.

    Args:
        bundle: the opened bundle.
        name: the graph's name in the manifest.
        threads: threads inside one operator; None lets ONNX Runtime take one per physical core.
        gpu: the index of the GPU that the CUDA provider runs on; None takes the CPU provider.
        engine: a cpu engine to open; None takes the one that the `cpu` target's record names, if it fits.

    Raises:
        MissingDependencyError: onnxruntime, or its CUDA provider, is not installed.
        BundleError: the graph, its engine or its weights are missing or damaged.
    """

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        threads: int | None = None,
        gpu: int | None = None,
        engine: Engine | None = None,
    ) -> None:
        runtime = import_onnxruntime()
        providers = _providers(runtime, gpu)
        self.graph = bundle.graph(name)
        self._outputs = [spec.name for spec in self.graph.outputs]
        weights = bundle.weights(name)
        options = _session_options(runtime, threads)
        # A cpu engine holds the CPU provider's fused operators, which the CUDA provider has not all of.
        if engine is None and gpu is None:
            engine = _usable_engine(bundle, name, runtime.__version__)
        if engine is None:
            model = bundle.read(self.graph.file)
        else:
            model = read_engine_bytes(bundle, engine)
            # An engine is already optimised for this machine; doing it again only costs start-up.
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(weights.parent.resolve())
        )
        try:
            self._session: Any = runtime.InferenceSession(model, options, providers=providers)
        except Exception as error:  # onnxruntime raises its own classes, which share no base but Exception
            raise WorkError(
                f"ONNX Runtime could not open {name}: {_first_line(error)}",
                "see `unipic2-edge doctor`; export the checkpoint again if the bundle is from another version",
            ) from error

        _check_provider(self._session, gpu)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Compute the graph's outputs from its inputs (see `Session.run`)."""
        check_inputs(self.graph, inputs)
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            kind = MemoryRanOutError if "allocate memory" in str(error) else WorkError
            raise kind(
                f"ONNX Runtime failed in {self.graph.file}: {_first_line(error)}",
                "a smaller picture or fewer pictures at once need less memory",
            ) from error
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """Give its memory back."""
        self._session = None


def _providers(runtime: Any, gpu: int | None) -> list[Any]:
    """The CPU provider, or the CUDA provider with the CPU's behind it for what runs on the host.

    Raises:
        MissingDependencyError: this build of ONNX Runtime has no CUDA provider.
    """
    if gpu is None:
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        raise MissingDependencyError(
            "this ONNX Runtime has no CUDA provider",
            'pip uninstall onnxruntime, then pip install "unipic2-edge[cuda]"',
        )
    if hasattr(runtime, "preload_dlls"):  # CUDA's libraries lie in packages of their own, where no loader looks
        runtime.preload_dlls()
    # Shapes change between pictures: a search for the best convolution each time would cost more than it gains.
    return [
        ("CUDAExecutionProvider", {"device_id": gpu, "cudnn_conv_algo_search": "HEURISTIC"}),
        "CPUExecutionProvider",
    ]


def _check_provider(session: Any, gpu: int | None) -> None:
    """Refuse a session that ONNX Runtime opened on the processor in silence because CUDA's libraries did not load.

    Raises:
        MissingDependencyError: they did not.
    """
    if gpu is not None and "CUDAExecutionProvider" not in session.get_providers():
        raise MissingDependencyError(
            "ONNX Runtime's CUDA provider does not load: CUDA, cuDNN or the driver is missing, or of another version",
            'pip install "onnxruntime-gpu[cuda,cudnn]", whose CUDA must be one that the driver knows',
        )


def import_onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        MissingDependencyError: not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "ONNX Runtime is not installed", 'install it with: pip install "unipic2-edge[cpu]"'
        ) from error
    return onnxruntime


def _session_options(runtime: Any, threads: int | None) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only: they come back as exceptions
    options.inter_op_num_threads = 1  # the graphs are chains: nothing to run side by side
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # 8-bit products whose sums do not saturate: without VNNI the faster ones lose a tenth of the largest value.
    options.add_session_config_entry(EXACT_INT8, "1")
    for key, value in _waiting(runtime.__version__).items():
        options.add_session_config_entry(f"session.intra_op.{key}", value)
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _waiting(version: str) -> dict[str, str]:
    """How a thread waits for its part of the next operator: 0.1 ms awake, then asleep.

    ONNX Runtime's own choice, many milliseconds awake, takes the processor from whoever else needs it; going to
    sleep at once costs a small model more than its operators do. Releases that cannot bound the wait (before 1.26,
    onnxruntime PR 27916) sleep at once.
    """
    release = tuple(int(part) for part in version.split(".")[:2])
    return {"spin_duration_us": "100"} if release >= (1, 26) else {"allow_spinning": "0"}


def _usable_engine(bundle: Bundle, name: str, version: str) -> Engine | None:
    """The cpu engine, unless another ONNX Runtime or OpenVINO made it: the plain graph is sure to fit them all."""
    record = read_target(bundle, "cpu")
    if record is None or name not in record.engines:
        return None
    engine = read_engine(bundle, record.engines[name])
    if engine.spec.backend != "onnxruntime":
        return None
    if engine.spec.backend_version != version:
        _warn_of_another_version(engine.spec.backend_version, version)
        return None
    return engine


@cache
def _warn_of_another_version(built: str, running: str) -> None:
    """Once a process, not once a graph."""
    logger.warning(
        "the cpu engine was built by ONNX Runtime %s, this is %s: using the plain graph (build again to mend)",
        built,
        running,
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
