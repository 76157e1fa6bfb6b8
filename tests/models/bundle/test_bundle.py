from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from models.bundle.bundle import (
    CONTENT_FILES,
    EXPLAIN_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    inspect_bundle,
    open_bundle,
)
from models.bundle.manifest import MANIFEST_FILE, read_manifest, sha256
from models.bundle.writer import write_manifest
from models.errors import BundleError


def test_a_bundle_with_a_manifest_opens(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    assert bundle.spec.labels == ("blue", "green", "red")
    assert set(bundle.manifest.files) == {*CONTENT_FILES, EXPLAIN_FILE}
    assert bundle.golden().images.shape == (3, 32, 32, 3)


@pytest.mark.parametrize("name", [*CONTENT_FILES, EXPLAIN_FILE])
def test_one_flipped_bit_in_any_file_is_found(tiny_bundle: Path, name: str) -> None:
    content = bytearray((tiny_bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tiny_bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} does not match its manifest"):
        open_bundle(tiny_bundle)


@pytest.mark.parametrize("name", CONTENT_FILES)
def test_a_missing_file_is_named(tiny_bundle: Path, name: str) -> None:
    (tiny_bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        open_bundle(tiny_bundle)


def test_weights_beside_the_graph_are_held_to_the_manifest(tiny_bundle: Path) -> None:
    (tiny_bundle / WEIGHTS_FILE).write_bytes(b"weights")
    write_manifest(tiny_bundle, read_manifest(tiny_bundle).provenance)
    assert WEIGHTS_FILE in open_bundle(tiny_bundle).manifest.files
    (tiny_bundle / WEIGHTS_FILE).write_bytes(b"weightz")
    with pytest.raises(BundleError, match=f"{WEIGHTS_FILE} does not match its manifest"):
        open_bundle(tiny_bundle)


def test_a_graph_is_compared_when_it_is_to_run_and_read_again_only_after_a_change(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_bundle / MODEL_FILE
    read: list[Path] = []

    def spy(path: Path, between: Callable[[], None]) -> str:
        read.append(path)
        return sha256(path, between)

    monkeypatch.setattr("models.bundle.manifest.sha256", spy)
    bundle = inspect_bundle(tiny_bundle)
    assert read
    assert model not in read
    bundle.check_graph(None)
    bundle.check_graph(None)
    assert read.count(model) == 1
    content, times = model.read_bytes(), model.stat()
    model.write_bytes(content[::-1])
    os.utime(model, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
    for _ in range(2):  # what failed is not taken for compared
        with pytest.raises(BundleError, match=f"{MODEL_FILE} does not match its manifest"):
            bundle.check_graph(None)


def test_weights_beside_a_graph_are_compared_apart_from_it(tiny_bundle: Path) -> None:
    (tiny_bundle / WEIGHTS_FILE).write_bytes(b"weights")
    write_manifest(tiny_bundle, read_manifest(tiny_bundle).provenance)
    bundle = inspect_bundle(tiny_bundle)
    bundle.check_weights(None)
    (tiny_bundle / WEIGHTS_FILE).write_bytes(b"weightz")
    bundle.check_graph(None)
    with pytest.raises(BundleError, match=f"{WEIGHTS_FILE} does not match its manifest"):
        bundle.check_weights(None)
    with pytest.raises(BundleError, match=f"{WEIGHTS_FILE} does not match its manifest"):
        bundle.check_explainer()  # it reads the same


def test_weights_that_the_manifest_does_not_list_are_not_run(tiny_bundle: Path) -> None:
    (tiny_bundle / WEIGHTS_FILE).write_bytes(b"weights")
    with pytest.raises(BundleError, match=f"doesn't list {WEIGHTS_FILE}"):
        inspect_bundle(tiny_bundle).check_graph(None)


@pytest.mark.parametrize(
    "name", ["../other", "/etc/hostname", "..", "", "a/b", "..\\other", "a\0b"]
)
def test_names_that_lead_elsewhere_are_refused(tiny_bundle: Path, name: str) -> None:
    (tiny_bundle.parent / "other").write_bytes(b"other")
    manifest = read_manifest(tiny_bundle)
    listed = manifest.model_copy(
        update={"files": {**manifest.files, name: hashlib.sha256(b"other").hexdigest()}}
    )
    (tiny_bundle / MANIFEST_FILE).write_text(listed.model_dump_json())
    with pytest.raises(BundleError, match="not a plain file name"):
        open_bundle(tiny_bundle)


def test_links_are_refused_even_to_the_right_content(tiny_bundle: Path) -> None:
    model = tiny_bundle / "model.onnx"
    elsewhere = tiny_bundle.parent / "model.onnx"
    model.rename(elsewhere)
    model.symlink_to(elsewhere)
    with pytest.raises(BundleError, match=r"model\.onnx is a link"):
        open_bundle(tiny_bundle)


def test_a_manifest_that_is_a_link_is_refused(tiny_bundle: Path) -> None:
    manifest = tiny_bundle / MANIFEST_FILE
    manifest.rename(tiny_bundle.parent / "elsewhere")
    manifest.symlink_to(tiny_bundle.parent / "elsewhere")
    with pytest.raises(BundleError, match=r"manifest\.json is a link"):
        open_bundle(tiny_bundle)


@pytest.mark.parametrize("name", ["model.yaml", MANIFEST_FILE])
def test_files_that_the_store_writes_are_not_the_bundles(tiny_bundle: Path, name: str) -> None:
    """BentoML reads the model.yaml of every version: a bad one would break its list of all."""
    (tiny_bundle / "model.yaml").write_text("[")
    manifest = read_manifest(tiny_bundle)
    listed = {**manifest.files, name: hashlib.sha256(b"[").hexdigest()}
    (tiny_bundle / MANIFEST_FILE).write_text(
        manifest.model_copy(update={"files": listed}).model_dump_json()
    )
    with pytest.raises(BundleError, match=f"lists '{name}', which is not a file of a bundle"):
        open_bundle(tiny_bundle)


def test_a_manifest_that_leaves_a_file_out_is_refused(tiny_bundle: Path) -> None:
    manifest = tiny_bundle / MANIFEST_FILE
    text = manifest.read_text()
    manifest.write_text(text.replace('"golden.npz"', '"other.npz"'))
    with pytest.raises(BundleError, match=r"doesn't list golden\.npz"):
        open_bundle(tiny_bundle)


def test_damaged_manifest(tiny_bundle: Path) -> None:
    (tiny_bundle / MANIFEST_FILE).write_text("{")
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(tiny_bundle)


def test_a_directory_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        open_bundle(tmp_path)
