"""A real export: what stands in the bundle, that it is always the same, and that nothing is left when it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

import unipic2_edge.export.bundle_writer as bundle_writer
from unipic2_edge.export.builtin_recipes import find_recipe
from unipic2_edge.export.bundle_writer import write_bundle
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import CheckpointError, OutputError, RequestError
from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.init import init_checkpoint
from unipic2_edge.training.layout import MODELS

GRAPHS = {
    "modulation": "denoiser",
    "denoiser": "denoiser",
    "vae_encoder": "vae",
    "vae_decoder": "vae",
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
    "text_encoder_3": "text_encoder_3",
}


def _graph(bundle: Path, name: str) -> onnx.ModelProto:
    return onnx.load(bundle / "graphs" / f"{name}.onnx", load_external_data=False)


def test_every_file_is_the_manifests(tiny_bundle: Path) -> None:
    bundle = Bundle(tiny_bundle)
    found = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
    assert set(bundle.manifest.files) == found - {"bundle.json", "quality.json"}
    for name in bundle.manifest.files:
        bundle.path(name)  # raises where the hash differs


def test_graphs_belong_to_their_components(tiny_bundle: Path) -> None:
    manifest = Bundle(tiny_bundle).manifest
    assert {name: graph.component for name, graph in manifest.graphs.items()} == GRAPHS
    for name in GRAPHS:
        model = _graph(tiny_bundle, name)
        assert [value.name for value in model.graph.input] == [spec.name for spec in manifest.graphs[name].inputs]
        assert [value.name for value in model.graph.output] == [spec.name for spec in manifest.graphs[name].outputs]


def test_the_manifest_counts_every_parameter_once(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    components = Bundle(tiny_bundle).manifest.components
    transformer = Checkpoint.open(tiny_checkpoint).load_transformer()
    assert components["denoiser"].parameters == sum(parameter.numel() for parameter in transformer.parameters())


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_holds_no_weights_and_points_into_its_components_file(tiny_bundle: Path, name: str) -> None:
    model = _graph(tiny_bundle, name)
    location = f"{GRAPHS[name]}.safetensors"
    stored = load_file(tiny_bundle / "weights" / location)
    data = (tiny_bundle / "weights" / location).read_bytes()
    outside = 0
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            assert len(tensor.raw_data) < 256
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        assert place["location"] == location  # a bare name
        weight = stored[tensor.name]
        assert list(weight.shape) == list(tensor.dims)
        start = int(place["offset"])
        assert data[start : start + int(place["length"])] == weight.contiguous().numpy().tobytes()
        outside += 1
    assert outside > 0
    assert model.ByteSize() < 400_000


def test_weights_have_the_checkpoints_names_and_values(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    stored = load_file(tiny_bundle / "weights" / "denoiser.safetensors")
    state = Checkpoint.open(tiny_checkpoint).load_transformer().state_dict()
    attn = "transformer_blocks.0.attn"
    merged = torch.cat([state[f"{attn}.{name}.weight"] for name in ("to_q", "to_k", "to_v")])
    assert torch.equal(stored[f"denoiser.{attn}.to_qkv.weight.transposed"], merged.T)
    adaln = "transformer_blocks.1.norm1_context.linear.weight"
    assert torch.equal(stored[f"modulation.{adaln}.transposed"], state[adaln].T)


def test_a_source_that_vanishes_is_a_users_error(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: Checkpoint) -> str:
        raise FileNotFoundError(2, "No such file or directory", "model.safetensors")

    monkeypatch.setattr(Checkpoint, "sha256", gone)
    with pytest.raises(CheckpointError, match=r"cannot be read: .*model.safetensors"):
        write_bundle(Checkpoint.open(tiny_checkpoint), tmp_path / "bundle", find_recipe("fp32"), ())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_says_nothing_of_the_machine_that_made_it(tiny_bundle: Path, name: str) -> None:
    model = _graph(tiny_bundle, name)
    data = (tiny_bundle / "graphs" / f"{name}.onnx").read_bytes()
    assert not model.metadata_props
    assert not model.doc_string
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    for trace in (b"site-packages", b".py", str(Path.home()).encode(), os.sep.encode() + b"tmp"):
        assert trace not in data


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_valid_and_portable(tiny_bundle: Path, name: str) -> None:
    model = _graph(tiny_bundle, name)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert not model.functions
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {node.domain for node in model.graph.node} <= {""}


@pytest.mark.slow
def test_the_same_checkpoint_gives_the_same_bytes(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    write_bundle(Checkpoint.open(tiny_checkpoint), tmp_path / "again", find_recipe("fp32"), ("denoiser",))
    again, first = Bundle(tmp_path / "again").manifest, Bundle(tiny_bundle).manifest
    assert len(again.files) == 9  # two graphs, one weights file, the recipe, five for the host
    assert again.files == {name: first.files[name] for name in again.files}
    assert again.source == first.source


@pytest.mark.slow
def test_a_large_part_is_never_loaded_whole_and_its_shards_give_the_same_bytes(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "sharded"))
    for part, stem in (("transformer", "diffusion_pytorch_model"), ("text_encoder_3", "model")):
        _shard(copy / part, stem)

    def refuse(*_: object) -> None:
        raise RuntimeError("the whole model was asked for")

    for load in ("load_transformer", "load_text_encoder"):
        monkeypatch.setattr(Checkpoint, load, refuse)
    made = write_bundle(Checkpoint.open(copy), tmp_path / "bundle", find_recipe("fp32"), ("denoiser", "text_encoder_3"))
    expected = Bundle(tiny_bundle).manifest
    assert made.files == {name: expected.files[name] for name in made.files}
    assert made.components == {name: expected.components[name] for name in made.components}
    assert made.source.sha256 == Checkpoint.open(copy).sha256() != expected.source.sha256


def _shard(folder: Path, stem: str) -> None:
    """Split a part's weights into two files with an index."""
    tensors = load_file(folder / f"{stem}.safetensors")
    files = [f"{stem}-0000{index}-of-00002.safetensors" for index in (1, 2)]
    weight_map = {name: files[index % 2] for index, name in enumerate(sorted(tensors))}
    for file in files:
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / f"{stem}.safetensors").unlink()


def test_a_published_checkpoint_gets_the_released_defaults(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from unipic2_edge.export.host_files import task_defaults

    (tmp_path / "bare").mkdir()
    released = task_defaults(Checkpoint(tmp_path / "bare"))
    assert (released["edit"].num_inference_steps, released["edit"].guidance_scale) == (50, 3.5)
    assert released["edit"].negative_prompt.startswith("blurry, low quality")
    assert released["generate"].negative_prompt == ""
    own = task_defaults(Checkpoint.open(tiny_checkpoint))
    assert (own["edit"].width, own["edit"].negative_prompt) == (64, "")


def test_what_cannot_be_exported_is_refused_before_any_work(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint, recipe = Checkpoint.open(tiny_checkpoint), find_recipe("fp32")
    with pytest.raises(RequestError, match="no component 'eyes'"):
        write_bundle(checkpoint, tmp_path / "bundle", recipe, ("eyes",))
    with pytest.raises(RequestError, match="no export recipe 'fp3'"):
        find_recipe("fp3")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        write_bundle(checkpoint, tmp_path / "full", recipe)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
    assert (tmp_path / "full" / "note.txt").read_text() == "mine"


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    checkpoint = init_checkpoint("tiny-kontext", tmp_path / "part", components=("text_encoder",))
    with pytest.raises(CheckpointError, match="lacks transformer, vae"):
        write_bundle(checkpoint, tmp_path / "bundle", find_recipe("fp32"), ("denoiser", "vae"))
    manifest = write_bundle(checkpoint, tmp_path / "bundle", find_recipe("fp32"), ("text_encoder",))
    assert set(manifest.components) == {"text_encoder"}
    assert set(MODELS) - {"text_encoder"} == {name for name in MODELS if not checkpoint.has(name)}


def test_a_failure_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_writer, "write_graph", full_disk)
    with pytest.raises(Exception, match="no space left on the disk"):
        write_bundle(Checkpoint.open(tiny_checkpoint), tmp_path / "bundle", find_recipe("fp32"), ("text_encoder",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "unipic2_edge.runtime.cli",
        "export",
        str(tiny_checkpoint),
        str(tmp_path / "bundle"),
    ]
    process = subprocess.Popen(
        [*command, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        # a test run in a shell's background has SIGINT ignored, and its children would inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".tmp-*/host/positions.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert json.loads(output.splitlines()[-1])["ok"] is False
    assert list(tmp_path.iterdir()) == []


def _environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    folders = (str(root / name) for name in ("training", "export", "engines", "runtime", "bench"))
    return os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
