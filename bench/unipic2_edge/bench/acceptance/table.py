"""The table of steps: every step of an acceptance run is one entry here, after the ones that it builds on."""

from __future__ import annotations

from collections.abc import Iterator

from .step import Setting, Step, workload_name
from .ways import COMPILED, Way, large_ways, small_ways

_HERE = "unipic2_edge.bench.acceptance"
_EXPORT = ("torch", "diffusers", "transformers", "onnx", "onnxscript")
GROUPS = ("environment", "limits", "correctness", "denoiser", "pictures", "memory")


def steps_of(setting: Setting) -> list[Step]:
    """All steps of a run, in their order."""
    return [
        Step(name="environment/machine", title="What is here", run=f"{_HERE}.environment:examine"),
        Step(name="limits/device", title="The device's limits, measured", run=f"{_HERE}.peaks:measure"),
        *_correctness(setting),
        *_denoiser(setting),
        *_pictures(setting),
        *_memory(setting),
    ]


def _correctness(setting: Setting) -> Iterator[Step]:
    """The small model through every backend that loads, against PyTorch; then the project's own GPU tests."""
    ways = small_ways(setting)
    for recipe in dict.fromkeys(way.recipe for way in ways):
        yield Step(
            name=f"correctness/export/{recipe}",
            title=f"The small model exported in {recipe}",
            run=f"{_HERE}.bundles:export_small",
            arguments={"recipe": recipe},
            needs=_EXPORT,
        )
    for way in ways:
        after = (f"correctness/export/{way.recipe}",)
        if way.backend in COMPILED:
            after = (f"correctness/build/{way.name}",)
            yield Step(
                name=after[0],
                title=f"The small model compiled by {way.backend} in {way.recipe}",
                run=f"{_HERE}.bundles:build_small",
                arguments={"backend": way.backend, "recipe": way.recipe},
                needs=way.packages,
                after=(f"correctness/export/{way.recipe}",),
            )
        yield Step(
            name=f"correctness/agree/{way.name}",
            title=f"Pictures of {way.backend} in {way.recipe} against PyTorch's",
            run=f"{_HERE}.agreement:compare_with_pytorch",
            arguments={"backend": way.backend, "recipe": way.recipe},
            needs=(*way.packages, *_EXPORT),
            after=after,
        )
    yield Step(
        name="correctness/tests",
        title="The project's GPU tests",
        run=f"{_HERE}.gpu_tests:run_tests",
        needs=("pytest",),
    )


def _denoiser(setting: Setting) -> Iterator[Step]:
    """The large denoiser with random weights: made, exported, compiled, then timed beside PyTorch."""
    ways, plain = large_ways(setting), "fp32" if setting.gpu is None else setting.half
    yield Step(
        name="denoiser/weights",
        title=f"Random weights of {setting.model}",
        run=f"{_HERE}.large_model:make_checkpoint",
        needs=_EXPORT,
    )
    for recipe in dict.fromkeys([plain, *(way.recipe for way in ways)]):
        yield Step(
            name=f"denoiser/export/{recipe}",
            title=f"The denoiser exported in {recipe}",
            run=f"{_HERE}.large_model:export_large",
            arguments={"recipe": recipe},
            needs=_EXPORT,
            after=("denoiser/weights",),
        )
    for load in setting.workloads:
        yield _step(load, None, plain)
    for way in ways:
        if way.backend in COMPILED:
            yield Step(
                name=f"denoiser/build/{way.name}",
                title=f"The denoiser compiled by {way.backend} in {way.recipe}",
                run=f"{_HERE}.large_model:build_large",
                arguments={"backend": way.backend, "recipe": way.recipe},
                needs=way.packages,
                after=(f"denoiser/export/{way.recipe}",),
            )
        for load in setting.workloads:
            yield _step(load, way, plain)


def _step(load: tuple[str, int, int], way: Way | None, plain: str) -> Step:
    """One denoising step through PyTorch alone, or with an engine beside it."""
    task, width, height = load
    arguments = {"task": task, "width": width, "height": height, "counted": plain}
    where = f"{task}-{width}x{height}"
    uses: tuple[str, ...] = ("limits/device", f"denoiser/export/{plain}")
    if way is None:
        return Step(
            name=f"denoiser/step/pytorch/{where}",
            title=f"A step of {workload_name(load)} through PyTorch, eager and compiled",
            run=f"{_HERE}.large_step:time_step",
            arguments=arguments,
            needs=_EXPORT,
            after=("denoiser/weights",),
            uses=uses,
        )
    built = f"denoiser/build/{way.name}" if way.backend in COMPILED else f"denoiser/export/{way.recipe}"
    return Step(
        name=f"denoiser/step/{way.name}/{where}",
        title=f"A step of {workload_name(load)} through {way.backend} in {way.recipe}, beside PyTorch",
        run=f"{_HERE}.large_step:time_step",
        arguments={**arguments, "backend": way.backend, "recipe": way.recipe},
        needs=(*way.packages, *_EXPORT),
        after=(built,),
        uses=(*uses, f"denoiser/export/{way.recipe}"),
    )


def _pictures(setting: Setting) -> Iterator[Step]:
    """Pictures and answers of the small models from end to end, the processor's first."""
    for way in small_ways(setting):
        built = f"correctness/build/{way.name}" if way.backend in COMPILED else f"correctness/export/{way.recipe}"
        yield Step(
            name=f"pictures/made/{way.name}",
            title=f"Pictures through {way.backend} in {way.recipe}",
            run=f"{_HERE}.pictures:make_pictures",
            arguments={"backend": way.backend, "recipe": way.recipe},
            needs=(*way.packages, "scipy"),
            after=(built,),
            uses=("pictures/made/onnxruntime-fp32",) if way.name != "onnxruntime-fp32" else (),
        )
    if setting.words is None:
        return
    # In 16 bit alone on GPUs: the language model's cache is of that kind there.
    ways = [way for way in small_ways(setting) if way.backend == "onnxruntime" or way.recipe != "fp32"]
    for recipe in dict.fromkeys(way.recipe for way in ways):
        yield Step(
            name=f"pictures/export/{recipe}",
            title=f"The model that answers, exported in {recipe}",
            run=f"{_HERE}.bundles:export_small",
            arguments={"recipe": recipe, "answers": True},
            needs=_EXPORT,
        )
    for way in ways:
        yield from _answers(way)


def _answers(way: Way) -> Iterator[Step]:
    after = (f"pictures/export/{way.recipe}",)
    arguments = {"backend": way.backend, "recipe": way.recipe, "answers": True}
    if way.backend in COMPILED:
        yield Step(
            name=f"pictures/build/{way.name}",
            title=f"The model that answers, compiled by {way.backend} in {way.recipe}",
            run=f"{_HERE}.bundles:build_small",
            arguments=arguments,
            needs=way.packages,
            after=after,
        )
        after = (f"pictures/build/{way.name}",)
    yield Step(
        name=f"pictures/answers/{way.name}",
        title=f"Answers through {way.backend} in {way.recipe}",
        run=f"{_HERE}.pictures:give_answers",
        arguments=arguments,
        needs=(*way.packages, "scipy"),
        after=after,
        uses=("pictures/answers/onnxruntime-fp32",) if way.name != "onnxruntime-fp32" else (),
    )


def _memory(setting: Setting) -> Iterator[Step]:
    """Every plan's memory on the GPU; processors have no plan."""
    plans = {
        "small": ("correctness", [way for way in small_ways(setting) if way.backend in COMPILED]),
        "large": ("denoiser", [way for way in large_ways(setting) if way.backend in COMPILED]),
    }
    for model, (group, ways) in plans.items():
        for way in ways if setting.gpu is not None else []:
            yield Step(
                name=f"memory/{model}/{way.name}",
                title=f"Memory of the {model} model's engines of {way.backend} in {way.recipe}",
                run=f"{_HERE}.memory:measure_memory",
                arguments={"backend": way.backend, "recipe": way.recipe, "model": model},
                needs=way.packages,
                after=(f"{group}/build/{way.name}",),
            )
