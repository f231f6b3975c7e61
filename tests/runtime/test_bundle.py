"""Opening a bundle: what is refused, and that nothing unverified is handed out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from unipic2_edge.runtime import verification
from unipic2_edge.runtime.bundle import FORMAT_VERSION, Bundle, read_manifest, write_manifest
from unipic2_edge.runtime.errors import BundleError

WEIGHTS = "weights/vae.safetensors"


def _manifest(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "bundle.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def _remove_manifest(folder: Path) -> None:
    (folder / "bundle.json").unlink()


def _write(text: str | bytes) -> Callable[[Path], None]:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / "bundle.json").write_bytes(data) and None


def _edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return lambda folder: _manifest(folder, change)


@pytest.mark.parametrize(
    ("spoil", "problem", "mend"),
    [
        (_remove_manifest, "has no bundle.json", "export"),
        (_write("{"), "not a bundle manifest", "export"),
        (_write('{"hello": 1}'), "not a bundle manifest", "export"),
        (_write("[]"), "not a bundle manifest", "export"),
        (_write(b'{"format_version": "\xff\xfe"}'), "not a bundle manifest", "export"),
        (_write(""), "not a bundle manifest", "export"),
        (_edit(lambda m: m.update(format_version=FORMAT_VERSION + 1)), "bundle format 2", "update unipic2-edge"),
        (_edit(lambda m: m.update(format_version=0)), "bundle format 0", "export the checkpoint again"),
        (_edit(lambda m: m.update(surprise=1)), "damaged.*surprise", "export"),
        (_edit(lambda m: m.pop("latents")), "damaged.*latents", "export"),
        (_edit(lambda m: m["latents"].update(factor="4")), "damaged.*factor", "export"),
        (_edit(lambda m: m["files"].pop(WEIGHTS)), f"without listing.*|uses files {WEIGHTS}", "export"),
        (_edit(lambda m: m["components"].pop("vae")), "components vae", "export"),
    ],
)
def test_a_bad_manifest_is_refused(folder: Path, spoil: Callable[[Path], None], problem: str, mend: str) -> None:
    spoil(folder)
    with pytest.raises(BundleError, match=problem) as caught:
        Bundle(folder)
    assert mend in caught.value.mend
    assert caught.value.exit_code == 2


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        Bundle(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="is a file, not a bundle folder"):
        Bundle(tmp_path / "file")


def test_a_manifest_round_trips(folder: Path, tmp_path: Path) -> None:
    manifest = read_manifest(folder)
    (tmp_path / "other").mkdir()
    write_manifest(tmp_path / "other", manifest)
    assert read_manifest(tmp_path / "other") == manifest


def test_whole_files_are_handed_out(bundle: Bundle) -> None:
    for name, entry in bundle.manifest.files.items():
        assert hashlib.sha256(bundle.path(name).read_bytes()).hexdigest() == entry.sha256
        assert bundle.read(name) == (bundle.folder / name).read_bytes()


def test_a_file_is_hashed_once(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    real = verification.sha256_of
    monkeypatch.setattr(verification, "sha256_of", lambda path: (hashed.append(path), real(path))[1])
    bundle.path(WEIGHTS)
    bundle.path(WEIGHTS)
    assert hashed == [bundle.folder / WEIGHTS]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _hard_link(path: Path) -> None:
    os.link(path, path.with_name("second-name"))


def _symlink(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to(path.with_name("moved"))


def _link_the_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to(path.parent.with_name("moved"), target_is_directory=True)


def _folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_flip, "damaged: SHA-256"),
        (_truncate, "damaged: bytes"),
        (Path.unlink, "missing"),
        (_hard_link, "hard link"),
        (_symlink, "symbolic link"),
        (_link_the_folder, "symbolic link"),
        (_folder_instead, "is not a file"),
    ],
)
@pytest.mark.parametrize("how", ["path", "read"])
def test_a_bad_file_is_refused(folder: Path, how: str, spoil: Callable[[Path], None], problem: str) -> None:
    bundle = Bundle(folder)
    spoil(folder / WEIGHTS)
    with pytest.raises(BundleError, match=problem) as caught:
        getattr(bundle, how)(WEIGHTS)
    assert caught.value.mend


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "weights/../../outside", "C:\\x", "..\\outside", "a\\b", "", "c:x"]
)
def test_a_path_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    (folder.parent / "outside").write_bytes(b"secret")
    with pytest.raises(BundleError, match="outside its folder"):
        verification.plain_file(folder, name)
    entry = {"sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
    _manifest(folder, lambda m: (m["files"].update({name: entry}), m.update(scheduler=name)))
    bundle = Bundle(folder)
    for read in (bundle.path, bundle.read):
        with pytest.raises(BundleError, match="outside its folder"):
            read(bundle.manifest.scheduler)


def test_a_file_that_is_not_listed_is_refused(bundle: Bundle) -> None:
    (bundle.folder / "stray").write_text("")
    with pytest.raises(BundleError, match="not listed"):
        bundle.path("stray")
    with pytest.raises(BundleError, match="no graph 'vision'"):
        bundle.graph("vision")
