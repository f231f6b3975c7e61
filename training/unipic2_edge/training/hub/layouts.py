"""Which files of a repository make a checkpoint: chosen from the names alone, before anything is fetched.

Safetensors only: pickled weights (.bin, .pt) are never taken, nor are variants (`*.fp16.safetensors`) where the plain
weights are there. The repository may hold its checkpoint at the top or in a subfolder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ..errors import CheckpointError, RequestError
from ..layout import KONTEXT, METAQUERY, QWEN, TOKENIZERS

#: What a MetaQuery repository itself holds: its language model is another repository.
_METAQUERY_OWN = tuple(part for part in METAQUERY.parts if part != QWEN)

_VARIANTS = ("", "bf16", "fp16", "fp32")  # in the order of preference
_VOCABULARY = ("vocab.json", "merges.txt", "spiece.model")  # needed only where there is no tokenizer.json
_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_PROCESSOR = ("preprocessor_config.json", "processor_config.json", "chat_template.json", "chat_template.jinja")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Selection:
    """What to fetch of a repository.

    Attributes:
        variant: "kontext", "metaquery" or "qwen".
        folder: the subfolder that holds it, "" for the top.
        files: path in the repository → path in the checkpoint.
    """

    variant: str
    folder: str
    files: dict[str, str]

    @property
    def renames(self) -> bool:
        """Whether a file has another name in the checkpoint, the subfolder aside."""
        return any(path.removeprefix(_slashed(self.folder)) != target for path, target in self.files.items())

    @property
    def has_qwen(self) -> bool:
        """Whether the language model comes with it."""
        return any(target.startswith(f"{QWEN}/") for target in self.files.values())

    def unconverted(self) -> list[str]:
        """The folders in the checkpoint that hold a tokenizer's vocabulary, but not the one file that is read."""
        targets = set(self.files.values())
        folders = {target.rpartition("/")[0] for target in targets if target.rpartition("/")[2] in _VOCABULARY}
        return sorted(folder for folder in folders if f"{_slashed(folder)}tokenizer.json" not in targets)


def choose_checkpoint(repo: str, names: Collection[str], subfolder: str | None = None) -> Selection:
    """The files of a Kontext or MetaQuery checkpoint.

    Args:
        repo: what to call the repository in errors.
        names: the paths of all its files.
        subfolder: where to look; without it, the top comes first, then the only subfolder that holds one.

    Raises:
        CheckpointError: there is no checkpoint in either layout, or one of its parts has no safetensors.
        RequestError: several subfolders hold one.
    """
    folder = _find(repo, names, subfolder)
    within = {name.removeprefix(_slashed(folder)) for name in names if name.startswith(_slashed(folder))}
    present = {name.partition("/")[0] for name in within if "/" in name}
    metaquery = "conditioner" in present
    parts = _METAQUERY_OWN if metaquery else KONTEXT.parts
    missing = [part for part in parts if part not in present]
    if missing:
        raise CheckpointError(
            f"{repo} is neither a Kontext nor a MetaQuery checkpoint: beside transformer/ it has neither conditioner/ "
            f"nor {missing[0]}/"
            if not metaquery
            else f"{repo} is a MetaQuery checkpoint without {missing[0]}/",
            "name a repository of UniPic2-SD3.5M-Kontext or UniPic2-Metaquery",
        )
    chosen = {name: target for part in parts for name, target in _part(repo, part, within)}
    chosen |= {name: name for name in ("model_index.json", "defaults.json") if name in within}
    if metaquery and f"{QWEN}/config.json" in within:
        chosen |= _moved(_qwen_files(repo, _inside(QWEN, within)), QWEN, QWEN)
    return Selection(
        "metaquery" if metaquery else "kontext",
        folder,
        {_slashed(folder) + name: target for name, target in chosen.items()},
    )


def choose_qwen(repo: str, names: Collection[str]) -> Selection:
    """The files of a Qwen2.5-VL, placed in the checkpoint's folder for it.

    Raises:
        CheckpointError: it is not one, or has no safetensors.
    """
    return Selection("qwen", "", _moved(_qwen_files(repo, set(names)), "", QWEN))


def _find(repo: str, names: Collection[str], subfolder: str | None) -> str:
    """The folder in the repository that holds transformer/ and vae/."""
    marker = "transformer/config.json"
    found = sorted(name.removesuffix(marker).rstrip("/") for name in names if f"/{name}".endswith(f"/{marker}"))
    found = [folder for folder in found if f"{_slashed(folder)}vae/config.json" in names]
    if subfolder is not None:
        found = [folder for folder in found if folder == subfolder.strip("/")]
    if not found:
        place = repo if subfolder is None else f"{subfolder} of {repo}"
        raise CheckpointError(
            f"{place} is neither a Kontext nor a MetaQuery checkpoint: it has no transformer/ beside a vae/",
            "name a repository of UniPic2-SD3.5M-Kontext or UniPic2-Metaquery",
        )
    if len(found) > 1 and "" not in found:
        raise RequestError(f"{repo} holds several checkpoints: {', '.join(found)}", "choose one with --subfolder")
    return found[0]


def _part(repo: str, part: str, names: set[str]) -> Iterator[tuple[str, str]]:
    inside = _inside(part, names)
    if part == "scheduler":
        chosen = {name: name for name in ("scheduler_config.json",) if name in inside}
    elif part in TOKENIZERS:
        chosen = _tokenizer(inside)
    else:
        stem = "diffusion_pytorch_model" if part in ("transformer", "vae") else "model"
        chosen = _model(f"{part} of {repo}", inside, stem)
    if not chosen:
        raise CheckpointError(f"{part} of {repo} has none of the files that it needs", "name another repository")
    yield from _moved(chosen, part, part).items()


def _qwen_files(repo: str, inside: set[str]) -> dict[str, str]:
    tokenizer = _tokenizer(inside)
    if not tokenizer or ("preprocessor_config.json" not in inside and "processor_config.json" not in inside):
        raise CheckpointError(
            f"{repo} is not a Qwen2.5-VL: it lacks a tokenizer or preprocessor_config.json",
            "name one with --qwen, as in --qwen Qwen/Qwen2.5-VL-7B-Instruct",
        )
    chosen = _model(repo, inside, "model") | tokenizer
    return chosen | {name: name for name in (*_PROCESSOR, "generation_config.json") if name in inside}


def _tokenizer(inside: set[str]) -> dict[str, str]:
    """A tokenizer's files: the one that is read, or what it can be made from."""
    core = ("tokenizer.json",) if "tokenizer.json" in inside else _VOCABULARY
    if not any(name in inside for name in core):
        return {}
    return {name: name for name in (*core, *_TOKENIZER) if name in inside}


def _model(what: str, inside: set[str], stem: str) -> dict[str, str]:
    """A model's config and weights: the plain ones, else a variant under the plain names."""
    for variant in _VARIANTS:
        weights = _weights(inside, stem, variant)
        if weights and "config.json" in inside:
            return {"config.json": "config.json"} | weights
    if "config.json" in inside and any(name.endswith(_PICKLED) for name in inside):
        raise CheckpointError(
            f"{what} has pickled weights only, which can run code when they are opened",
            "name a repository with safetensors, or convert this one on a machine that trusts it",
        )
    raise CheckpointError(f"{what} has no config.json with safetensors beside it", "name another repository")


def _weights(inside: set[str], stem: str, variant: str) -> dict[str, str]:
    """The one file, or the shards and their index, of a variant; shards keep the names that the index gives them."""
    dotted = f".{variant}" if variant else ""
    single, index = f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json"
    if single in inside:
        return {single: f"{stem}.safetensors"}
    if index not in inside:
        return {}
    number, mark = r"-\d{5}-of-\d{5}", re.escape(dotted)
    shard = re.compile(rf"{re.escape(stem)}({mark}{number}|{number}{mark})\.safetensors")
    shards = {name: name for name in sorted(inside) if shard.fullmatch(name)}
    return shards | {index: f"{stem}.safetensors.index.json"} if shards else {}


def _inside(folder: str, names: set[str]) -> set[str]:
    """The names of the files directly in a folder."""
    found = {name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")}
    return {name for name in found if "/" not in name}


def _moved(files: dict[str, str], source: str, target: str) -> dict[str, str]:
    return {_slashed(source) + name: _slashed(target) + place for name, place in files.items()}


def _slashed(folder: str) -> str:
    return f"{folder}/" if folder else ""
