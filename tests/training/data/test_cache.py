"""Encodings on disk: what is read is what was made, files are whole or absent, and a full disk is one clear error."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.data.cache import Cache
from unipic2_edge.training.data.examples import ShardExamples
from unipic2_edge.training.errors import OutputError, WorkError
from unipic2_edge.training.loop.share import WHOLE
from unipic2_edge.training.recipe import Recipe

CPU = torch.device("cpu")
MakeRecipe = Callable[..., Recipe]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_kept_is_found_again_by_the_same_parts_alone(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "parts")
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(2)}
    kept = cache.put("key", tensors)
    cache.flush()
    found = Cache(tmp_path, "parts").get("key")
    assert found is not None
    for name, tensor in tensors.items():
        assert torch.equal(found[name], kept[name])
        assert torch.equal(found[name], tensor.half().float())
    assert Cache(tmp_path, "other parts").get("key") is None
    assert cache.get("other key") is None
    assert len(_files(tmp_path)) == 1


def test_what_does_not_fit_into_half_precision_is_kept_whole(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "parts")
    tensors = {"a": torch.tensor([1e6, 1.0001])}
    assert torch.equal(cache.put("key", tensors)["a"], tensors["a"])


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "parts")
    cache.put("key", {"a": torch.ones(64)})
    cache.flush()
    (path,) = _files(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    assert cache.get("key") is None
    cache.put("key", {"a": torch.ones(64)})
    cache.flush()
    assert cache.get("key") is not None


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = Cache(tmp_path, "parts")
    monkeypatch.setattr(os, "fsync", full)
    cache.put("key", {"a": torch.ones(4)})
    with pytest.raises(WorkError, match="no space left on the disk while writing"):
        cache.flush()
    with pytest.raises(WorkError, match="no space left"):
        cache.put("other", {"a": torch.ones(4)})
    assert _files(tmp_path) == []


def test_a_cache_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file", "parts")
    cache.put("key", {"a": torch.ones(4)})
    with pytest.raises(OutputError, match="cannot write"):
        cache.flush()


def _examples(checkpoint: Checkpoint, recipe: Recipe, output: Path) -> ShardExamples:
    vae, conditioner = checkpoint.load_vae(), checkpoint.load_conditioner()
    examples = ShardExamples(recipe, checkpoint, vae, conditioner, checkpoint.tokenizers(), output)
    examples.begin(WHOLE)
    return examples


@pytest.mark.parametrize("kind", ["latents", "all"])
def test_a_second_run_encodes_nothing_and_sees_the_same(
    kind: str, tiny_checkpoint: Checkpoint, make_recipe: MakeRecipe, shards: Path, tmp_path: Path
) -> None:
    sources = [(kind, shards / "parquet" / f"{kind}-*.parquet") for kind in ("captions", "edits")]
    dropped = np.array([False, True, False, False])
    seen: list[Any] = []
    for cached in ("none", kind, kind):
        examples = _examples(tiny_checkpoint, make_recipe(*sources, **{"data.shards.cache": cached}), tmp_path)
        if len(seen) == 2:
            examples.encoding.vae = None
            if kind == "all":
                examples.encoding.conditioner = None  # type: ignore[assignment]
        seen.append([examples.batch(edit, dropped, CPU) for edit in (False, True, False)])
        for cache in (examples.encoding.caches.latents, examples.encoding.caches.words):
            if cache is not None:
                cache.flush()
    for plain, first, second in zip(*seen, strict=True):
        for cold, warm, exact in zip(_tensors(first), _tensors(second), _tensors(plain), strict=True):
            assert torch.equal(cold, warm)
            assert torch.allclose(cold, exact, atol=2e-3, rtol=2e-3)


def _tensors(example: Any) -> list[torch.Tensor]:
    latents, condition = example
    reference = [] if condition.reference is None else [condition.reference]
    return [latents, condition.context, condition.pooled, *reference]


def test_examples_are_what_the_frozen_parts_make(
    tiny_checkpoint: Checkpoint, make_recipe: MakeRecipe, shards: Path, tmp_path: Path
) -> None:
    sources = [(kind, shards / "webdataset" / f"{kind}-*.tar") for kind in ("captions", "edits")]
    recipe = make_recipe(*sources)
    examples = _examples(tiny_checkpoint, recipe, tmp_path)
    again = _examples(tiny_checkpoint, recipe, tmp_path)
    latents, condition = examples.batch(True, np.zeros(4, bool), CPU)
    samples = again.streams.batch("edits")
    vae = examples.encoding.vae
    for row, sample in enumerate(samples):
        for view, found in zip(sample.views, (condition.reference, latents), strict=True):
            assert view.picture is not None
            assert found is not None
            image = torch.from_numpy(view.picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            with torch.no_grad():
                mean = vae.encode(image).latent_dist.mode()[0]
            wanted = (mean - vae.config.shift_factor) * vae.config.scaling_factor
            assert torch.allclose(found[row], wanted, atol=5e-3)  # flat pictures and random weights amplify rounding
    with torch.no_grad():
        context, _ = examples.encoding.conditioner(
            tiny_checkpoint.tokenizers()([sample.texts[0] for sample in samples])
        )
    assert torch.allclose(condition.context, context, atol=1e-5)


def test_texts_longer_than_the_tokenizers_take_are_cut_and_counted(
    tiny_checkpoint: Checkpoint,
    make_recipe: MakeRecipe,
    shards: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sources = [(kind, shards / "webdataset" / f"{kind}-*.tar") for kind in ("captions", "edits")]
    encoding = _examples(tiny_checkpoint, make_recipe(*sources), tmp_path).encoding
    context, _ = encoding.words(["a red circle", "a red circle and a blue square " * 9], CPU)
    assert context.shape[:2] == (2, sum(tiny_checkpoint.tokenizers().lengths[1:]))
    assert encoding.cut == 1
    assert "is cut: a red circle and" in caplog.text
