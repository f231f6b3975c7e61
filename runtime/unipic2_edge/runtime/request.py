"""A request, checked: defaults filled in, sizes on the grid, one prompt and one seed for each picture."""

from __future__ import annotations

import math
import operator
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Manifest, TaskDefaults
from .errors import BundleError, RequestError
from .images import edit_grid, resize_longer_edge
from .settings import Reference, Task

Floats = NDArray[np.float32]

MAX_THREADS = 256  # of one session; each graph has its own
MAX_PICTURES = 1024
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Options:
    """What a caller may leave to the bundle's defaults (None)."""

    negative_prompt: str | Sequence[str] | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | Sequence[int] | None = None
    latents: NDArray[Any] | None = None
    reference: Reference | None = None


@dataclass(frozen=True)
class Request:
    """What a pipeline makes: `count` pictures of one size, in one batch."""

    task: Task
    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    seeds: tuple[int, ...] | None  # None: the caller gave the initial latents
    latents: Floats | None
    reference: Reference | None

    @property
    def count(self) -> int:
        """The number of pictures."""
        return len(self.prompts)

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance runs: a guidance scale of at most 1 asks for none."""
        return self.guidance_scale > 1

    @property
    def rows(self) -> tuple[str, ...]:
        """The prompt of each row of the denoiser's batch: the negative ones (with guidance), the positive."""
        return self.negative_prompts + self.prompts if self.guided else self.prompts


def make_request(
    manifest: Manifest, task: Task, prompts: tuple[str, ...], size: tuple[int, int], options: Options
) -> Request:
    """Check everything that can be checked without opening a graph.

    Args:
        manifest: the bundle's.
        task: generate or edit.
        prompts: one for each picture (`pick_prompts`).
        size: (width, height) in pixels.
        options: the caller's wishes.

    Raises:
        RequestError: the first wish that cannot be met.
        BundleError: the bundle was not made for the task.
    """
    default, space, count = task_defaults(manifest, task), manifest.latents, len(prompts)
    width, height = size
    grid = space.factor * space.patch_size
    check_size(width, height, grid, grid * manifest.positions.max_size)
    guidance = default.guidance_scale if options.guidance_scale is None else options.guidance_scale
    steps = default.num_inference_steps if options.num_inference_steps is None else options.num_inference_steps
    latents = None if options.latents is None else check_latents(options.latents, count, space.channels)
    return Request(
        task=task,
        prompts=prompts,
        negative_prompts=pick_negative_prompts(options.negative_prompt, default.negative_prompt, count),
        height=height,
        width=width,
        num_inference_steps=check_whole(steps, "num_inference_steps"),
        guidance_scale=check_guidance(guidance),
        seeds=None if latents is not None else pick_seeds(options.seed, count),
        latents=latents,
        reference=options.reference,
    )


def pick_size(
    height: int | None, width: int | None, latents: NDArray[Any] | None, factor: int, default: tuple[int, int]
) -> tuple[int, int]:
    """(width, height) in pixels: that of the caller's latents, else the caller's, else the default's.

    Raises:
        RequestError: latents that are not [n, C, h, w], or of another size than the one asked for.
    """
    if latents is None:
        return default[0] if width is None else width, default[1] if height is None else height
    if latents.ndim != 4:
        raise RequestError(f"the latents have the shape {list(latents.shape)}", "give [n, channels, height, width]")
    size = latents.shape[3] * factor, latents.shape[2] * factor
    if (size[0] if width is None else width, size[1] if height is None else height) != size:
        raise RequestError(
            f"the latents are those of a {size[0]}x{size[1]} picture", "leave the size out, or give that one"
        )
    return size


def pick_edit_size(manifest: Manifest, sizes: Sequence[tuple[int, int]], longer: int | None) -> tuple[int, int]:
    """The (width, height) at which pictures of these sizes are edited: the longer edge given, or the default's.

    Raises:
        RequestError: the longer edge is off the grid, or the pictures' shapes ask for different sizes.
        BundleError: the bundle was not made for editing.
    """
    default, space = task_defaults(manifest, "edit"), manifest.latents
    grid = edit_grid(space.factor, space.patch_size)
    target = max(default.width, default.height) if longer is None else longer
    if target < grid or target % grid:
        raise RequestError(
            f"the size {target} does not fit: the longer edge must be a multiple of {grid}",
            f"the nearest size that fits is {max(grid, round(target / grid) * grid)}",
        )
    found = {resize_longer_edge(size, target, grid) for size in sizes}
    if len(found) > 1:
        raise RequestError("the pictures have different shapes", "edit them one by one, or give height and width")
    return found.pop()


def task_defaults(manifest: Manifest, task: Task) -> TaskDefaults:
    """What the bundle's task uses when the caller says nothing.

    Raises:
        BundleError: the bundle was not made for this task.
    """
    if task not in manifest.defaults:
        raise BundleError(f"the bundle {manifest.name} cannot {task}", "export a checkpoint that was trained for it")
    return manifest.defaults[task]


def pick_prompts(prompt: str | Sequence[str], num_images: int) -> tuple[str, ...]:
    """One prompt for each picture: `num_images` of the first prompt, then of the second, …

    Raises:
        RequestError: no prompt, an empty one, or a number of pictures out of range.
    """
    if not 1 <= check_whole(num_images, "num_images") <= MAX_PICTURES:
        raise RequestError(f"{num_images} pictures cannot be made", f"ask for 1 to {MAX_PICTURES}")
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    if not prompts or not all(text.strip() for text in prompts):
        raise RequestError("the prompt is empty", "say in words what to make")
    check_encodable(prompts)
    if len(prompts) * num_images > MAX_PICTURES:
        raise RequestError(
            f"{len(prompts) * num_images} pictures are too many in one batch",
            f"ask for at most {MAX_PICTURES}",
        )
    return tuple(text for text in prompts for _ in range(num_images))


def check_encodable(texts: Sequence[str]) -> None:
    """Refuse text that is no Unicode: a shell's stray bytes arrive as lone surrogates.

    Raises:
        RequestError: the first text that cannot be encoded.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the prompt has a broken character at position {error.start + 1}", "write it in UTF-8"
            ) from error


def pick_negative_prompts(negative: str | Sequence[str] | None, default: str, count: int) -> tuple[str, ...]:
    """One negative prompt for each picture; it may be empty.

    Raises:
        RequestError: a sequence of another length than there are pictures.
    """
    check_encodable((negative,) if isinstance(negative, str) else negative or ())
    if negative is None or isinstance(negative, str):
        return (default if negative is None else negative,) * count
    if len(negative) != count:
        raise RequestError(
            f"there are {len(negative)} negative prompts for {count} pictures",
            "give one, or one for each picture",
        )
    return tuple(negative)


def pick_seeds(seed: int | Sequence[int] | None, count: int) -> tuple[int, ...]:
    """One seed for each picture: seed, seed + 1, … so that each of them can be made again alone.

    Raises:
        RequestError: out of range, or a sequence of another length than there are pictures.
    """
    if seed is None:
        seed = secrets.randbelow(2**32)
    if isinstance(seed, Sequence | np.ndarray):
        seeds = tuple(check_whole(value, "seed") for value in seed)
    else:
        first = check_whole(seed, "seed")
        seeds = tuple(range(first, first + count))
    if len(seeds) != count:
        raise RequestError(f"there are {len(seeds)} seeds for {count} pictures", "give one, or one for each picture")
    if not all(0 <= value <= MAX_SEED for value in seeds):
        raise RequestError("a seed is out of range", f"use 0 to {MAX_SEED}")
    return seeds


def check_whole(value: Any, name: str) -> int:
    """A whole number, numpy's included, as an int; True and False are none.

    Raises:
        RequestError: anything else.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise RequestError(f"{name} is {value!r}, not a whole number", "give an int")


def check_guidance(guidance: float) -> float:
    """A guidance scale, if it is one.

    Raises:
        RequestError: negative, infinite or not a number.
    """
    if not math.isfinite(guidance) or guidance < 0:
        raise RequestError(f"a guidance scale of {guidance} makes no sense", "use 1 (none) to about 10")
    return guidance


def check_size(width: int, height: int, grid: int, largest: int) -> None:
    """Refuse sizes that are not whole patches, or that the position table does not reach.

    Args:
        width, height: in pixels.
        grid: pixels a patch is wide.
        largest: the longest side in pixels.

    Raises:
        RequestError: the message names the nearest size that fits.
    """
    nearest = [min(max(grid, round(side / grid) * grid), largest) for side in (width, height)]
    if [width, height] == nearest:
        return
    if max(width, height) > largest:
        problem = f"the size {width}x{height} is too large: at most {largest} pixels a side"
    else:
        problem = f"the size {width}x{height} does not fit: both sides must be multiples of {grid}"
    raise RequestError(problem, f"the nearest size that fits is {nearest[0]}x{nearest[1]}")


def check_latents(latents: NDArray[Any], count: int, channels: int) -> Floats:
    """The caller's initial latents as float32 [count, channels, h, w].

    Raises:
        RequestError: another shape, or values that are not finite.
    """
    if latents.ndim != 4 or latents.shape[:2] != (count, channels):
        raise RequestError(
            f"the latents have the shape {list(latents.shape)}", f"give [{count}, {channels}, height, width]"
        )
    values = np.ascontiguousarray(latents, dtype=np.float32)
    if not np.isfinite(values).all():
        raise RequestError("the latents hold values that are not finite", "give finite numbers")
    return values
