"""The compiler of the `cpu` target: ONNX Runtime's optimised form of a graph.

Optimising the small model's seven graphs takes 0.1 s, as long as two of its steps. An optimised graph keeps
pointing at the bundle's own weights files and stores only what optimisation made new (kilobytes), at any size
of model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import EngineSpec, Scalar
from unipic2_edge.runtime.errors import WorkError
from unipic2_edge.runtime.onnx_session import EXACT_INT8, import_onnxruntime

from .compiler import Compiled, Progress

#: Left out: it rewrites convolution weights for one processor's vector width, so that the engine would be wrong
#: on another one, and stores those rewritten weights a second time.
UNPORTABLE = ("NchwcTransformer",)


def cpu_settings(threads: int | None) -> dict[str, Scalar]:
    """What a cpu engine is compiled with."""
    return {
        "graph_optimization": "all",
        "without": ", ".join(UNPORTABLE),
        "execution_mode": "sequential",
        "exact_int8": True,
        "threads": threads,
    }


class OnnxRuntimeCompiler:
    """Optimises graphs with ONNX Runtime, in this process."""

    suffix = ".onnx"
    isolated = False

    def compile(self, bundle: Bundle, spec: EngineSpec, output: Path, progress: Progress) -> Compiled:
        """Optimise one graph (see `Compiler.compile`)."""
        runtime = import_onnxruntime()
        model, weights = bundle.read(bundle.graph(spec.graph).file), bundle.weights(spec.graph)
        threads = spec.settings["threads"]
        options = _options(runtime, weights.parent, output, int(threads) if threads else 0)
        try:
            runtime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(UNPORTABLE)
            )
        except Exception as error:  # onnxruntime's classes share no base but Exception
            raise WorkError(
                f"ONNX Runtime could not compile {spec.graph}: {str(error).splitlines()[0]}",
                "export the checkpoint again",
            ) from error
        progress("optimised", 1.0)
        return Compiled()


def _options(runtime: Any, weights: Path, output: Path, threads: int) -> Any:
    """Session options that read external data from `weights` and write the optimised graph to `output`."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.optimized_model_filepath = str(output)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.resolve()))
    options.add_session_config_entry(EXACT_INT8, "1")  # as the session that opens the engine
    # Nothing is run here: packing the weights for multiplication would only double the memory.
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options
