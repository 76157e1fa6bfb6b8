from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer

from models import store
from models.bundle import SIGNATURE_FILE
from models.errors import BundleError, StoreError
from testing.bundles import write_tiny_bundle
from training.diff import diff_models
from training.transfer import TransferError, pull, push


@pytest.fixture
def tag(store_home: Path, tiny_bundle: Path) -> str:
    tag = store.register(tiny_bundle)
    store.promote(tag)
    return tag


@contextmanager
def store_elsewhere(tmp_path: Path) -> Iterator[None]:
    """Another machine's store."""
    home = tmp_path / "elsewhere" / "models"
    home.mkdir(parents=True, exist_ok=True)
    before = BentoMLContainer.model_store_dir.get()
    BentoMLContainer.model_store_dir.set(str(home))
    try:
        yield
    finally:
        BentoMLContainer.model_store_dir.set(before)


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_there_and_back(tag: str, tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}{tmp_path}/shared"
    assert push(url, "production") == tag
    with store_elsewhere(tmp_path):
        assert pull(url, "production") == tag
        assert pull(url, tag) == tag  # it is there
        version = tag.partition(":")[2]
        assert store.open_stored(version).manifest.provenance.seed == 0
        assert [model.version for model in store.list_models()] == [version]
        assert store.production_version() is None  # that is for somebody to decide
        assert store.promote(tag) == tag


def test_an_interrupted_copy_is_no_version_yet_and_is_completed(tag: str, tmp_path: Path) -> None:
    url = str(tmp_path / "shared")
    push(url, tag)
    manifest = next(Path(url).rglob("manifest.json"))
    manifest.unlink()
    with store_elsewhere(tmp_path), pytest.raises(TransferError, match="has no"):
        pull(url, tag)
    push(url, tag)
    with store_elsewhere(tmp_path):
        assert pull(url, tag) == tag


def test_what_was_changed_on_the_way_is_not_kept(tag: str, tmp_path: Path) -> None:
    url = str(tmp_path / "shared")
    push(url, tag)
    next(Path(url).rglob("model.onnx")).write_bytes(b"x")
    with store_elsewhere(tmp_path):
        with pytest.raises(BundleError, match="does not match its manifest"):
            pull(url, tag)
        assert store.list_models() == []


def test_what_is_not_there(tag: str, tmp_path: Path) -> None:
    url = str(tmp_path / "shared")
    with pytest.raises(TransferError, match="has no production"):
        pull(url, "production")
    with pytest.raises(TransferError, match="is no version"):
        pull(url, "../../etc")
    with pytest.raises(StoreError):
        push(url, "vgg19:none")
    with pytest.raises(TransferError, match="can't be written"):
        push("nosuchprotocol://x", tag)


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_signature_travels_with_its_version_and_after_it(
    tag: str, tmp_path: Path, scheme: str
) -> None:
    url = f"{scheme}{tmp_path}/signed"
    signature = store.stored_path(store.resolve(tag)) / SIGNATURE_FILE
    push(url, tag)
    with store_elsewhere(tmp_path):
        pull(url, tag)
        arrived = store.stored_path(store.resolve(tag)) / SIGNATURE_FILE
        assert not arrived.exists()
    for content in ("by one key", "by the next"):
        signature.write_text(content)
        push(url, tag)
        with store_elsewhere(tmp_path):
            pull(url, tag)
            assert arrived.read_text() == content
    shutil.rmtree(arrived.parent)
    with store_elsewhere(tmp_path):
        pull(url, tag)  # with all other files
    assert arrived.read_text() == "by the next"


def test_diff_names_what_differs_and_nothing_else(tag: str, tmp_path: Path) -> None:
    other = store.register(
        write_tiny_bundle(tmp_path / "later", created_at="2026-02-28T12:00:00+00:00")
    )
    assert diff_models(tag, tag) == []
    rows = {row.what: (row.first, row.second) for row in diff_models(tag, other)}
    assert rows == {"created": ("2026-01-31T12:00:00+00:00", "2026-02-28T12:00:00+00:00")}
