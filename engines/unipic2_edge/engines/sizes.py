"""The sizes an engine must serve, in the words of a user, and the optimisation profiles that follow from them.

sizes = default_sizes(manifest)                    # 256…1024 pixels a side, generation and editing, 1–2 pictures
profile_of(manifest, "denoiser", sizes)            # {"patches": Shapes(min, opt, max), …}
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unipic2_edge.runtime.bundle import Manifest
from unipic2_edge.runtime.engine import Shapes
from unipic2_edge.runtime.errors import BundleError, RequestError

Size = tuple[int, int]  # width, height in pixels
Extent = tuple[int, int, int]  # smallest, likely, largest

TASKS = ("generate", "edit")
#: Context tokens of SD3's text encoders (77 of CLIP, 256 of T5), for bundles that hold the denoiser alone.
_CONTEXT = 77 + 256
_STEPS = 50
#: Of a MetaQuery bundle: graphs that take one row, pixels a side that a token sees at most finely, tokens a side of a
#: window, words of a usual prompt, the most tokens that are read at once, and that a cache holds if nothing says.
_ONE_BY_ONE = ("vision", "language", "language_static", "lm_head", "connector")
_SEEN, _WINDOW, _WORDS, _CHUNK, _CACHE = 28, 4, 32, 2048, 2048
_SIDES = (256, 1024)


@dataclass(frozen=True)
class Sizes:
    """What pictures are asked for.

    Attributes:
        smallest: width and height in pixels.
        likely: what the engine is tuned for.
        largest: in pixels; an engine's memory grows with it.
        tasks: "generate", "edit" or both; an edit has twice the tokens.
        images: how many pictures at once, at most; guidance doubles the denoiser's batch. The autoencoder takes
            one after another.
        steps: how many steps at once the modulation is computed for, at most.
    """

    smallest: Size
    likely: Size
    largest: Size
    tasks: tuple[str, ...] = TASKS
    images: int = 2
    steps: int = _STEPS

    def describe(self) -> str:
        """For people: "256x256…1024x1024, generate and edit, 1–2 pictures"."""
        first, last = (f"{width}x{height}" for width, height in (self.smallest, self.largest))
        span = first if first == last else f"{first}…{last}"
        count = "1 picture" if self.images == 1 else f"1–{self.images} pictures"
        return f"{span}, {' and '.join(self.tasks)}, {count}"


def default_sizes(manifest: Manifest) -> Sizes:
    """256 to 1024 pixels a side, within what the model's position table allows, tuned for its default picture."""
    largest = min(_SIDES[1], manifest.positions.max_size * _cell(manifest))
    default = manifest.defaults.get("generate")
    likely = (default.width, default.height) if default else (largest, largest)
    smallest = max(_cell(manifest), min(_SIDES[0], min(likely) // 2) // _cell(manifest) * _cell(manifest))
    return Sizes((smallest, smallest), likely, (largest, largest))


def fixed_sizes(manifest: Manifest, wanted: list[Size]) -> Sizes:
    """Just these sizes and what lies between them; one size alone gives the fastest engine.

    Raises:
        RequestError: a size that the model cannot make.
    """
    for size in wanted:
        _check_size(manifest, size)
    widths, heights = ([size[axis] for size in wanted] for axis in (0, 1))
    likely = max(wanted, key=lambda size: size[0] * size[1])
    return Sizes((min(widths), min(heights)), likely, (max(widths), max(heights)))


def span_sizes(manifest: Manifest, smallest: Size | None, largest: Size | None) -> Sizes:
    """Everything from `smallest` to `largest`; what is not given is the default's.

    Raises:
        RequestError: a size that the model cannot make, or a smallest one above the largest.
    """
    default = default_sizes(manifest)
    first, last = smallest or default.smallest, largest or default.largest
    for size in (first, last):
        _check_size(manifest, size)
    if first[0] > last[0] or first[1] > last[1]:
        raise RequestError(
            f"the smallest size {first[0]}x{first[1]} is above the largest {last[0]}x{last[1]}", "exchange them"
        )
    likely = tuple(min(max(side, low), high) for side, low, high in zip(default.likely, first, last, strict=True))
    return replace(default, smallest=first, largest=last, likely=(likely[0], likely[1]))


def limited(sizes: Sizes, tasks: tuple[str, ...] | None, images: int | None) -> Sizes:
    """The same sizes for other tasks or another number of pictures.

    Raises:
        RequestError: no such task, or less than one picture.
    """
    unknown = [task for task in tasks or () if task not in TASKS]
    if unknown:
        raise RequestError(f"there is no task {unknown[0]!r}", f"use {' or '.join(TASKS)}")
    if images is not None and not 1 <= images <= 64:
        raise RequestError(f"{images} pictures at once cannot be", "use 1 to 64")
    return replace(sizes, tasks=tasks or sizes.tasks, images=images or sizes.images)


def parse_size(text: str) -> Size:
    """Width and height of a text like "512x768".

    Raises:
        RequestError: it is not that.
    """
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise RequestError(f"{text!r} is no size", "give width and height in pixels, as in 512x768")
    return int(width), int(height)


def profile_of(manifest: Manifest, graph: str, sizes: Sizes) -> dict[str, Shapes]:
    """The optimisation profile of a graph: the shapes of every input that has a named dimension.

    Raises:
        BundleError: a dimension of a name that means nothing here.
    """
    extents = _extents(manifest, graph, sizes)
    component = manifest.components.get(manifest.graphs[graph].component)
    if component is not None and "nvfp4" in component.formats:
        # TensorRT-RTX 1.7.1 infers no shapes of nvfp4 inputs whose smallest extent is above 1 ("shape inference").
        extents |= {side: (1, *extents[side][1:]) for side in ("batch", "tokens")}
    profile = {}
    for spec in manifest.graphs[graph].inputs:
        named = [side for side in spec.shape if isinstance(side, str)]
        unknown = [side for side in named if side not in extents]
        if unknown:
            raise BundleError(
                f"the graph {graph} has a dimension {unknown[0]!r} of unknown meaning", "update unipic2-edge"
            )
        if named:
            shapes = [
                tuple(extents[side][index] if isinstance(side, str) else side for side in spec.shape)
                for index in range(3)
            ]
            profile[spec.name] = Shapes(min=shapes[0], opt=shapes[1], max=shapes[2])
    return profile


def _extents(manifest: Manifest, graph: str, sizes: Sizes) -> dict[str, Extent]:
    """Smallest, likely and largest value of every named dimension of a graph."""
    factor, ordered = manifest.latents.factor, (sizes.smallest, sizes.likely, sizes.largest)
    width, height = ((a, b, c) for a, b, c in (tuple(size[axis] for size in ordered) for axis in (0, 1)))
    context = _context(manifest)
    steps = manifest.defaults["generate"].num_inference_steps if "generate" in manifest.defaults else sizes.steps
    language = {} if manifest.query is None else _language_extents(manifest, sizes)
    return language | {
        "steps": (1, min(steps, sizes.steps), sizes.steps),
        "batch": _batch(graph, sizes),
        "tokens": _tokens(manifest, sizes),
        "context": (context, context, context),
        "height": height,
        "width": width,
        "h": (height[0] // factor, height[1] // factor, height[2] // factor),
        "w": (width[0] // factor, width[1] // factor, width[2] // factor),
    }


def _batch(graph: str, sizes: Sizes) -> Extent:
    """One picture for the autoencoder, whose activations are the largest; elsewhere guidance doubles them.

    The language model and what stands around it read one sequence after another, each of its own length.
    """
    if graph.startswith("vae") or graph in _ONE_BY_ONE:
        return 1, 1, 1
    return 1, 2, 2 * sizes.images


def _tokens(manifest: Manifest, sizes: Sizes) -> Extent:
    """An edit's sequence holds the reference as well."""
    cell = _cell(manifest)
    few, likely, many = (
        (width // cell) * (height // cell) for width, height in (sizes.smallest, sizes.likely, sizes.largest)
    )
    low, high = (2 if "generate" not in sizes.tasks else 1), (2 if "edit" in sizes.tasks else 1)
    return low * few, high * likely, high * many


def _language_extents(manifest: Manifest, sizes: Sizes) -> dict[str, Extent]:
    """Of Qwen2.5-VL: a picture's windows and tokens, and how much is read at once after how much.

    A picture is seen at one token for each 32×32 pixels when it is edited, and for each 28×28 when it is asked about.
    """
    seen = [
        (-(-width // _SEEN), -(-height // _SEEN)) for width, height in (sizes.smallest, sizes.likely, sizes.largest)
    ]
    tokens = [across * down for across, down in seen]
    windows = [-(-across // _WINDOW) * -(-down // _WINDOW) for across, down in seen]
    queries = 1 if manifest.query is None else manifest.query.count
    longest = _cache_length(manifest)
    read = (1, min(queries + _WORDS, longest), min(_CHUNK, longest))
    past = (0, min(tokens[1] + _WORDS, longest), longest)
    return {
        "windows": (1, windows[1], max(windows[2], 1)),
        "image_tokens": (1, tokens[1], tokens[2]),
        "sequence": read,
        "past": past,
        "total": (1, read[1] + past[1], read[2] + past[2]),
        "selected": (1, min(queries, read[1]), min(queries, read[2])),
    }


def _cache_length(manifest: Manifest) -> int:
    """Tokens that the language model holds: the length of its cache where that is fixed."""
    static = manifest.graphs.get("language_static")
    sides = [] if static is None else [spec.shape[2] for spec in static.inputs if spec.name.startswith("cache_")]
    return next((side for side in sides if isinstance(side, int)), _CACHE)


def _context(manifest: Manifest) -> int:
    """Tokens of the context: the meta queries; or those of the CLIPs, which stand side by side, and T5's after them."""
    if manifest.query is not None:
        return manifest.query.count
    if manifest.text is None:
        return _CONTEXT
    tokenizers = manifest.text.tokenizers
    return tokenizers["text_encoder"].length + tokenizers["text_encoder_3"].length


def _cell(manifest: Manifest) -> int:
    """Pixels a side of one token."""
    return manifest.latents.factor * manifest.latents.patch_size


def _check_size(manifest: Manifest, size: Size) -> None:
    cell, limit = _cell(manifest), manifest.positions.max_size * _cell(manifest)
    for side in size:
        if side < cell or side > limit or side % cell:
            raise RequestError(
                f"{size[0]}x{size[1]} is no size of this model",
                f"use multiples of {cell} from {cell} to {limit} pixels a side",
            )
