from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models import bentoml_adapter
from models.bundle.bundle import SIGNATURE_FILE
from models.errors import BundleError, StoreError
from models.registry import store
from models.registry.diff import diff_models
from models.registry.transfer import TransferError, pull, push
from testing.bundles import write_tiny_bundle
from testing.commands import run_command
from testing.ports import free_port


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
    before = bentoml_adapter.store_directory()
    bentoml_adapter.choose_store_directory(home)
    try:
        yield
    finally:
        bentoml_adapter.choose_store_directory(before)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A URL with nothing there yet, of the scheme that the test is parametrized with."""
    if request.param == "s3://":
        return str(request.getfixturevalue("bucket")) + "/a/prefix"
    return f"{request.param}{tmp_path}/shared"


EVERYWHERE = pytest.mark.parametrize("place", ["", "file://", "memory://", "s3://"], indirect=True)


@EVERYWHERE
def test_there_and_back(tag: str, tmp_path: Path, place: str) -> None:
    url = place
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


@EVERYWHERE
def test_what_is_not_there(tag: str, place: str) -> None:
    url = place
    with pytest.raises(TransferError, match="has no production"):
        pull(url, "production")
    with pytest.raises(TransferError, match="is not a version"):
        pull(url, "../../etc")
    with pytest.raises(StoreError):
        push(url, "vgg19:none")
    with pytest.raises(TransferError, match="can't be written"):
        push("nosuchprotocol://x", tag)


@EVERYWHERE
def test_a_signature_travels_with_its_version_and_after_it(
    tag: str, tmp_path: Path, place: str
) -> None:
    url = place
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


def test_in_an_object_store_others_are_seen_and_marks_of_directories_are_passed_over(
    tag: str, tmp_path: Path, bucket: str
) -> None:
    import s3fs

    with store_elsewhere(tmp_path), pytest.raises(TransferError, match="has no"):
        pull(bucket, "production")
    other = s3fs.S3FileSystem(skip_instance_cache=True)  # as the one of another process
    push(bucket, tag)
    version = tag.partition(":")[2]
    other.pipe_file(f"{bucket}/{version}/", b"")  # as a web console makes an empty directory
    with store_elsewhere(tmp_path):
        assert pull(bucket, "production") == tag
        assert [model.version for model in store.list_models()] == [version]


@pytest.mark.slow
def test_an_object_store_that_cannot_be_reached_is_one_line(
    tag: str, tmp_path: Path, s3_endpoint: str
) -> None:
    url = "s3://there-is-no-such-bucket/x"
    with store_elsewhere(tmp_path), pytest.raises(TransferError, match="can't be read|has no"):
        pull(url, tag)
    closed = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "AWS_MAX_ATTEMPTS": "1"}
    for environment in ({}, closed):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            result = run_command("vgg19", "models", "pull", url, cwd=tmp_path, home=tmp_path)
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        assert len(result.stderr.splitlines()) == 1, result.stderr


def test_diff_names_what_differs_and_nothing_else(tag: str, tmp_path: Path) -> None:
    other = store.register(
        write_tiny_bundle(tmp_path / "later", created_at="2026-02-28T12:00:00+00:00")
    )
    assert diff_models(tag, tag) == []
    rows = {row.what: (row.first, row.second) for row in diff_models(tag, other)}
    assert rows == {"created": ("2026-01-31T12:00:00+00:00", "2026-02-28T12:00:00+00:00")}
