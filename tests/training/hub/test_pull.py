"""Pulling from a stand-in hub: whole checkpoints, cut connections, the cache alone, damage and refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from huggingface_hub import constants

from unipic2_edge.runtime.cli import main
from unipic2_edge.training.errors import CheckpointError, OutputError, RequestError, UserError, WorkError
from unipic2_edge.training.hub import large, repository
from unipic2_edge.training.hub.pull import DEFAULT_QWEN, PullOptions, pull
from unipic2_edge.training.layout import CheckpointFolder

from .stub_hub import LARGE, StubHub, StubRepository

KONTEXT, METAQUERY = "Skywork/kontext", "Skywork/metaquery"


@pytest.fixture
def kontext(hub: StubHub, kontext_files: dict[str, bytes]) -> StubRepository:
    hub.repositories[KONTEXT] = StubRepository(kontext_files)
    return hub.repositories[KONTEXT]


@pytest.fixture
def real(hub: StubHub, real_files: dict[str, bytes]) -> StubRepository:
    hub.repositories[KONTEXT] = StubRepository(real_files)
    return hub.repositories[KONTEXT]


@pytest.fixture
def metaquery(hub: StubHub, metaquery_files: dict[str, bytes], qwen_files: dict[str, bytes]) -> StubRepository:
    hub.repositories[METAQUERY] = StubRepository(metaquery_files)
    hub.repositories[DEFAULT_QWEN] = StubRepository(qwen_files)
    return hub.repositories[METAQUERY]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_kontext_checkpoint_arrives_whole_and_alone(
    real: StubRepository, tiny_checkpoint: CheckpointFolder, tmp_path: Path
) -> None:
    pulled = pull(KONTEXT, tmp_path / "made")
    assert _files(tmp_path / "made") == _files(tiny_checkpoint.folder)
    assert CheckpointFolder.open(tmp_path / "made").sha256() == tiny_checkpoint.sha256()
    assert (pulled.variant, pulled.commits, pulled.linked) == ("kontext", {KONTEXT: real.commit}, 5)
    assert pulled.size == sum(map(len, _files(tmp_path / "made").values()))


def test_weights_share_their_bytes_with_the_cache_and_configs_do_not(kontext: StubRepository, tmp_path: Path) -> None:
    pull(KONTEXT, tmp_path / "linked")
    pull(KONTEXT, tmp_path / "copied", PullOptions(copy=True))
    weights, config = "vae/diffusion_pytorch_model.safetensors", "vae/config.json"
    assert (tmp_path / "linked" / weights).stat().st_nlink == 2
    assert (tmp_path / "copied" / weights).stat().st_nlink == 1
    (tmp_path / "linked" / config).write_text("{}")
    pull(KONTEXT, tmp_path / "again")
    assert (tmp_path / "again" / config).read_bytes() == kontext.files[config]


def test_nothing_is_fetched_twice(hub: StubHub, kontext: StubRepository, tmp_path: Path) -> None:
    pull(KONTEXT, tmp_path / "first")
    assert len(hub.downloads()) == len(set(_files(tmp_path / "first")))
    hub.asked.clear()
    pull(KONTEXT, tmp_path / "second")
    assert hub.downloads() == []


def test_a_metaquery_checkpoint_gets_its_language_model(
    hub: StubHub, metaquery: StubRepository, qwen_files: dict[str, bytes], tmp_path: Path
) -> None:
    pulled = pull(METAQUERY, tmp_path / "made")
    made = _files(tmp_path / "made")
    qwen = {name.removeprefix("qwen2_5_vl/"): data for name, data in made.items() if name.startswith("qwen2_5_vl/")}
    assert qwen == {
        name: qwen_files[name] for name in qwen_files if name not in ("vocab.json", "merges.txt", "model.onnx")
    }
    assert made["conditioner/model.safetensors"] == metaquery.files["conditioner/model.safetensors"]
    assert pulled.variant == "metaquery"
    assert pulled.commits == {name: stub.commit for name, stub in hub.repositories.items()}


def test_a_language_model_in_the_same_repository_is_taken(
    hub: StubHub, metaquery: StubRepository, qwen_files: dict[str, bytes], tmp_path: Path
) -> None:
    inside = {f"qwen2_5_vl/{name}": data for name, data in qwen_files.items()}
    hub.repositories["me/whole"] = StubRepository(metaquery.files | inside)
    pulled = pull("me/whole", None)
    assert list(pulled.commits) == ["me/whole"]
    assert (pulled.folder / "qwen2_5_vl" / "tokenizer.json").is_file()
    pull("me/whole", tmp_path / "made")
    pull(METAQUERY, tmp_path / "other")
    assert _files(tmp_path / "made") == _files(tmp_path / "other")


def test_another_language_model_may_be_named(hub: StubHub, metaquery: StubRepository, tmp_path: Path) -> None:
    hub.repositories["me/tuned"] = hub.repositories.pop(DEFAULT_QWEN)
    assert pull(METAQUERY, tmp_path / "made", PullOptions(qwen="me/tuned")).variant == "metaquery"
    with pytest.raises(CheckpointError, match=r"is not a Qwen2\.5-VL"):
        pull(METAQUERY, tmp_path / "other", PullOptions(qwen=METAQUERY))


def test_without_a_folder_the_cache_is_used_in_place(
    real: StubRepository, metaquery: StubRepository, tiny_checkpoint: CheckpointFolder
) -> None:
    pulled = pull(KONTEXT, None)
    assert pulled.folder.name == real.commit
    assert CheckpointFolder.open(pulled.folder).sha256() == tiny_checkpoint.sha256()
    with pytest.raises(RequestError, match="its language model"):
        pull(METAQUERY, None)


def test_a_checkpoint_in_a_subfolder(hub: StubHub, kontext: StubRepository, tmp_path: Path) -> None:
    for folders in (["only"], ["one", "two"]):
        files = {f"{folder}/{name}": data for folder in folders for name, data in kontext.files.items()}
        hub.repositories["me/nested"] = StubRepository(files)
        if len(folders) == 1:
            assert pull("me/nested", tmp_path / "made").variant == "kontext"
            assert pull("me/nested", None).folder.name == "only"
        else:
            with pytest.raises(RequestError, match="several checkpoints: one, two"):
                pull("me/nested", tmp_path / "other")
            pull("me/nested", tmp_path / "two", PullOptions(subfolder="two"))
    assert _files(tmp_path / "two") == _files(tmp_path / "made")


def test_a_variant_is_taken_only_where_there_is_nothing_else(
    hub: StubHub, kontext: StubRepository, tmp_path: Path
) -> None:
    plain = "transformer/diffusion_pytorch_model.safetensors"
    variant = "transformer/diffusion_pytorch_model.fp16.safetensors"
    hub.repositories["me/half"] = StubRepository({name: data for name, data in kontext.files.items() if name != plain})
    with pytest.raises(RequestError, match="variants"):
        pull("me/half", None)
    pull("me/half", tmp_path / "made")
    assert (tmp_path / "made" / plain).read_bytes() == kontext.files[variant]


def test_old_tokenizers_are_converted(
    hub: StubHub, real: StubRepository, tiny_checkpoint: CheckpointFolder, tmp_path: Path
) -> None:
    """Published repositories keep CLIP's vocabulary and merges, without the one file that is read here."""
    model = json.loads(real.files["tokenizer/tokenizer.json"])["model"]
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])])
    files = {name: data for name, data in real.files.items() if name != "tokenizer/tokenizer.json"}
    files |= {"tokenizer/vocab.json": json.dumps(model["vocab"]).encode(), "tokenizer/merges.txt": merges.encode()}
    hub.repositories["me/old"] = StubRepository(files)
    with pytest.raises(RequestError, match=r"tokenizer\.json"):
        pull("me/old", None)
    pull("me/old", tmp_path / "made")
    from tokenizers import Tokenizer

    made, original = (
        Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        for folder in (tmp_path / "made", tiny_checkpoint.folder)
    )
    for text in ("a red circle", "two blue squares, and a triangle!"):
        assert made.encode(text).ids == original.encode(text).ids


def test_a_cut_connection_goes_on_where_it_was(
    hub: StubHub, kontext: StubRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "text_encoder_2/model.safetensors"
    hub.cut[path] = 1500
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # whole chunks are kept
    pull(KONTEXT, tmp_path / "made")
    asked = [place for method, name, place in hub.asked if method == "GET" and name.endswith(path)]
    assert asked == [None, "bytes=1500-"]
    assert (tmp_path / "made" / path).read_bytes() == kontext.files[path]


def test_a_run_that_was_stopped_goes_on_inside_a_file(
    hub: StubHub, kontext: StubRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "text_encoder_2/model.safetensors"
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    monkeypatch.setattr(large, "FROM", LARGE)
    hub.cut[path] = 1500
    hub.down_after_cut = True
    with pytest.raises(WorkError, match="answered 503"):
        pull(KONTEXT, tmp_path / "made")
    hub.down, hub.down_after_cut = False, False
    hub.asked.clear()
    pull(KONTEXT, tmp_path / "made")
    asked = [place for method, name, place in hub.asked if method == "GET" and "/large/" in name and path in name]
    assert asked == ["bytes=1500-"]
    assert (tmp_path / "made" / path).read_bytes() == kontext.files[path]
    assert list(Path(constants.HF_HUB_CACHE).rglob("*.partial")) == []


def test_ctrl_c_keeps_what_has_arrived(
    hub: StubHub, kontext: StubRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(large, "FROM", LARGE)
    with monkeypatch.context() as patched:
        patched.setattr(large.LargeFiles, "_wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pull(KONTEXT, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    pull(KONTEXT, tmp_path / "made")
    assert (tmp_path / "made" / "vae" / "config.json").is_file()


@pytest.mark.parametrize("way", ["offline", "no network", "a hub that is down"])
def test_what_is_in_the_cache_needs_no_hub(
    way: str, hub: StubHub, kontext: StubRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(KONTEXT, tmp_path / "first")
    _take_away(way, hub, monkeypatch)
    pulled = pull(KONTEXT, tmp_path / "made")
    assert pulled.commits == {KONTEXT: kontext.commit}
    assert _files(tmp_path / "made") == _files(tmp_path / "first")


def test_what_other_tools_left_in_the_cache_is_enough(
    hub: StubHub, kontext: StubRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(KONTEXT, tmp_path / "first")
    for listing in Path(constants.HF_HUB_CACHE).rglob("trees/*.json"):
        listing.unlink()
    monkeypatch.setattr("huggingface_hub._tree_cache._IN_MEMORY_TREE_CACHE", {})
    _take_away("offline", hub, monkeypatch)
    pull(KONTEXT, tmp_path / "made")
    assert _files(tmp_path / "made") == _files(tmp_path / "first")


@pytest.mark.parametrize(
    ("way", "kind", "problem"),
    [
        ("offline", RequestError, "HF_HUB_OFFLINE"),
        ("no network", WorkError, "cannot be reached"),
        ("a hub that is down", WorkError, "answered 503"),
    ],
)
def test_what_is_not_in_the_cache_needs_one(
    way: str,
    kind: type[UserError],
    problem: str,
    hub: StubHub,
    kontext: StubRepository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _take_away(way, hub, monkeypatch)
    with pytest.raises(kind, match=problem):
        pull(KONTEXT, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_an_endpoint_that_is_no_hub(hub: StubHub, kontext: StubRepository, tmp_path: Path) -> None:
    hub.foreign = True
    with pytest.raises(WorkError, match="does not answer as a hub"):
        pull(KONTEXT, tmp_path / "made")


def test_a_part_of_a_snapshot_is_not_a_checkpoint(
    hub: StubHub, kontext: StubRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pull(KONTEXT, None).folder
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    _take_away("offline", hub, monkeypatch)
    with pytest.raises(RequestError, match="not wholly in the cache"):
        pull(KONTEXT, tmp_path / "made")


def _take_away(way: str, hub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif way == "no network":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    else:
        hub.down = True


def test_damage_on_the_way_is_found_and_removed(hub: StubHub, kontext: StubRepository, tmp_path: Path) -> None:
    path = "transformer/diffusion_pytorch_model.safetensors"
    hub.damaged.add(path)
    with pytest.raises(WorkError, match="does not have the hash"):
        pull(KONTEXT, tmp_path / "made")
    assert list(tmp_path.glob("[!h]*")) == []  # the cache alone
    hub.damaged.clear()
    pull(KONTEXT, tmp_path / "made")
    assert (tmp_path / "made" / path).read_bytes() == kontext.files[path]


@pytest.mark.parametrize("path", ["vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"])
def test_damage_in_the_cache_is_found_offline(
    path: str, hub: StubHub, kontext: StubRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = (pull(KONTEXT, None).folder / path).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    _take_away("offline", hub, monkeypatch)
    with pytest.raises(WorkError, match="does not have the hash"):
        pull(KONTEXT, tmp_path / "made")


@pytest.mark.parametrize(
    ("name", "options", "problem", "mend"),
    [
        ("me/gated", PullOptions(), "gated", "accept its terms"),
        ("me/private", PullOptions(), "there is no repository me/private", "--token"),
        ("me/private", PullOptions(token="wrong"), "there is no repository me/private", "--token"),
        ("me/absent", PullOptions(), "there is no repository me/absent", "check the name"),
        (KONTEXT, PullOptions(revision="v9"), "has no revision 'v9'", "branches"),
        ("a/b/c", PullOptions(), "no name of a repository", "OWNER/NAME"),
        ("me/datasets", PullOptions(), "neither a Kontext nor a MetaQuery checkpoint", "name a repository"),
        ("me/sd3", PullOptions(), "has neither conditioner/ nor text_encoder", "name a repository"),
        ("me/pickled", PullOptions(), "pickled", "safetensors"),
        (KONTEXT, PullOptions(subfolder="deep"), "deep of Skywork/kontext", "name a repository"),
    ],
)
def test_a_refusal_says_what_is_wrong(
    name: str, options: PullOptions, problem: str, mend: str, hub: StubHub, kontext: StubRepository, tmp_path: Path
) -> None:
    files = kontext.files
    weights = "text_encoder/model.safetensors"
    hub.repositories |= {
        "me/gated": StubRepository(files, refusal=(403, "GatedRepo")),
        "me/private": StubRepository(files, token="hf_right"),
        "me/datasets": StubRepository({"data.parquet": b"x"}),
        "me/sd3": StubRepository({path: data for path, data in files.items() if path[:4] in ("tran", "vae/")}),
        "me/pickled": StubRepository(
            {path: data for path, data in files.items() if path != weights} | {"text_encoder/model.bin": b"x"}
        ),
    }
    with pytest.raises(UserError) as raised:
        pull(name, tmp_path / "made", options)
    assert raised.value.exit_code == 2
    assert problem in raised.value.problem
    assert mend in raised.value.mend
    assert not (tmp_path / "made").exists()
    assert [path for path in hub.downloads() if path.endswith(".safetensors")] == []


def test_a_token_opens_a_private_repository(hub: StubHub, kontext: StubRepository, tmp_path: Path) -> None:
    hub.repositories["me/private"] = StubRepository(kontext.files, token="hf_right")
    assert pull("me/private", tmp_path / "made", PullOptions(token="hf_right")).variant == "kontext"


def test_a_disk_that_is_too_small_is_found_before_the_first_byte(
    hub: StubHub, kontext: StubRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(repository.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(WorkError, match="are free"):
        pull(KONTEXT, tmp_path / "made")
    assert hub.downloads() == []


def test_a_disk_that_fills_up(kontext: StubRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(WorkError, match="no space left"):
        pull(KONTEXT, tmp_path / "made")


def test_an_index_without_its_shard(hub: StubHub, metaquery: StubRepository, tmp_path: Path) -> None:
    del hub.repositories[DEFAULT_QWEN].files["model-00002-of-00002.safetensors"]
    with pytest.raises(CheckpointError, match="lacks its shard model-00002"):
        pull(METAQUERY, tmp_path / "made")


def test_a_folder_in_the_way_is_refused_before_the_hub_is_asked(
    hub: StubHub, kontext: StubRepository, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        pull(KONTEXT, tmp_path / "made")
    assert hub.asked == []


def test_the_command_answers_in_json(
    kontext: StubRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", KONTEXT, str(tmp_path / "made"), "--json"]) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out.splitlines()[-1])
    assert (answer["checkpoint"], answer["variant"], answer["linked"]) == (str(tmp_path / "made"), "kontext", 5)
    assert captured.err == ""
    assert main(["pull", "me/absent", "--json"]) == 2
    assert "there is no repository" in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["problem"]


@pytest.mark.parametrize(
    ("library", "problem"), [(None, "huggingface_hub is not installed"), (ModuleType("huggingface_hub"), "is too old")]
)
def test_a_missing_or_old_client_names_the_extra(
    library: ModuleType | None, problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("unipic2_edge.training.hub")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    assert main(["pull", KONTEXT, "--json"]) == 2
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert problem in error["problem"]
    assert "unipic2-edge[hub]" in error["mend"]


@pytest.mark.slow
def test_the_environment_is_honoured(hub: StubHub, kontext: StubRepository, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_TOKEN, then HF_HUB_OFFLINE, in processes of their own that import no torch."""
    kontext.token = "hf_right"
    program = (
        "import sys; from unipic2_edge.runtime.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(code or 7 * ('torch' in sys.modules))"
    )
    path = os.pathsep.join(sys.path)
    common = {**os.environ, "PYTHONPATH": path, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    for name, extra in (("online", {"HF_TOKEN": "hf_right"}), ("offline", {"HF_HUB_OFFLINE": "1"})):
        words = ["pull", KONTEXT, str(tmp_path / name), "--json"]
        made = subprocess.run(
            [sys.executable, "-c", program, *words], env=common | extra, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        assert json.loads(made.stdout.splitlines()[-1])["commits"] == {KONTEXT: kontext.commit}
    assert _files(tmp_path / "online") == _files(tmp_path / "offline")
    assert httpx.get(f"{hub.url}/api/models/{KONTEXT}").status_code == 401  # the token was needed
