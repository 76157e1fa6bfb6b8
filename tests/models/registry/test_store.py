from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle.bundle import CONTENT_FILES, EXPLAIN_FILE, SIGNATURE_FILE, SPEC_FILE
from models.bundle.manifest import MANIFEST_FILE, read_manifest
from models.bundle.spec import ModelSpec
from models.bundle.writer import write_manifest
from models.errors import BundleError, StoreError
from models.imaging.preprocessing import Preprocessing, Resize
from models.registry import store
from testing.bundles import write_tiny_bundle
from testing.commands import run_command


@pytest.fixture
def registered(store_home: Path, tiny_bundle: Path) -> str:
    return store.register(tiny_bundle)


def test_version_tells_when_and_what(registered: str) -> None:
    assert registered.startswith("vgg19:20260131-120000-")


def test_the_stored_copy_is_a_whole_bundle(registered: str, tiny_bundle: Path) -> None:
    shutil.rmtree(tiny_bundle)
    assert store.open_stored(store.resolve(registered)).spec.labels == ("blue", "green", "red")


def test_only_what_the_manifest_lists_is_stored(store_home: Path, tiny_bundle: Path) -> None:
    (tiny_bundle / "notes.txt").write_text("mine")
    entry = store_home / "models" / store.register(tiny_bundle).replace(":", "/")
    names = {path.name for path in entry.iterdir()}
    assert names == {*CONTENT_FILES, EXPLAIN_FILE, MANIFEST_FILE, "model.yaml"}


def test_a_signature_is_stored_as_well(store_home: Path, tiny_bundle: Path) -> None:
    (tiny_bundle / SIGNATURE_FILE).write_text("signature")
    version = store.resolve(store.register(tiny_bundle))
    assert (store.stored_path(version) / SIGNATURE_FILE).read_text() == "signature"


def test_a_signature_made_later_comes_by_registering_again(
    registered: str, tiny_bundle: Path
) -> None:
    stored = store.stored_path(store.resolve(registered)) / SIGNATURE_FILE
    assert not stored.exists()
    (tiny_bundle / SIGNATURE_FILE).write_text("signature")
    store.register(tiny_bundle)
    assert stored.read_text() == "signature"
    (tiny_bundle / SIGNATURE_FILE).write_text("another")
    store.register(tiny_bundle)
    assert stored.read_text() == "signature"  # `vgg19 sign TAG` replaces it


def test_a_signature_that_is_a_link_is_not_followed(
    store_home: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("precious")
    (tiny_bundle / SIGNATURE_FILE).symlink_to(tmp_path / "precious")
    with pytest.raises(BundleError, match="is a link"):
        store.register(tiny_bundle)
    assert store.list_models() == []


def test_registering_twice_is_as_once(registered: str, tiny_bundle: Path, store_home: Path) -> None:
    """After a kill nobody knows how far it came."""
    latest = store_home / "models" / "vgg19" / "latest"
    latest.unlink()  # as after a kill between the two renames
    assert store.register(tiny_bundle) == registered
    assert [model.tag for model in store.list_models()] == [registered]
    assert latest.read_text() == registered.partition(":")[2]


def test_another_model_of_the_same_version_is_refused(
    registered: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(
        tiny_bundle, read_manifest(tiny_bundle).provenance.model_copy(update={"seed": 1})
    )
    monkeypatch.setattr(store, "version_of", lambda bundle: registered.partition(":")[2])
    with pytest.raises(StoreError, match="is another model already"):
        store.register(tiny_bundle)


def test_a_tampered_bundle_is_not_registered(store_home: Path, tiny_bundle: Path) -> None:
    (tiny_bundle / "README.md").write_text("other")
    with pytest.raises(BundleError):
        store.register(tiny_bundle)
    assert store.list_models() == []


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_registration_that_fails(
    store_home: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(shutil, "copy2", fail)
    with pytest.raises(type(error)):
        store.register(tiny_bundle)
    assert [path for path in store_home.rglob("*") if path.is_file()] == []
    assert store.list_models() == []


def test_references(registered: str, tmp_path: Path) -> None:
    newer = store.register(write_tiny_bundle(tmp_path / "b", "2026-02-01T00:00:00+00:00"))
    version = registered.partition(":")[2]
    assert store.resolve(registered) == version
    assert store.resolve(version) == version
    assert f"vgg19:{store.resolve('latest')}" == newer
    assert [model.tag for model in store.list_models()] == [newer, registered]


def test_production_is_what_was_promoted(registered: str, tmp_path: Path) -> None:
    newer = store.register(write_tiny_bundle(tmp_path / "b", "2026-02-01T00:00:00+00:00"))
    with pytest.raises(
        StoreError, match="no production model .* choose one with 'vgg19 promote TAG"
    ):
        store.resolve("production")
    assert store.promote(registered) == registered
    assert f"vgg19:{store.resolve()}" == registered
    assert store.promote("latest") == newer
    assert f"vgg19:{store.resolve('vgg19:production')}" == newer


def test_a_damaged_model_is_not_promoted(registered: str, store_home: Path, tmp_path: Path) -> None:
    store.promote(registered)
    newer = store.register(write_tiny_bundle(tmp_path / "b", "2026-02-01T00:00:00+00:00"))
    model = store_home / "models" / newer.replace(":", "/") / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(BundleError, match="does not match its manifest"):
        store.promote(newer)
    assert f"vgg19:{store.resolve()}" == registered


def test_a_deleted_production_model_is_reported(registered: str, store_home: Path) -> None:
    store.promote(registered)
    shutil.rmtree(store_home / "models" / registered.replace(":", "/"))
    with pytest.raises(StoreError, match="no longer in"):
        store.resolve()


@pytest.mark.parametrize("reference", ["", "..", "../..", "vgg19:..", "nope", "a/b", "vgg19:"])
def test_references_to_nothing(registered: str, reference: str) -> None:
    with pytest.raises(StoreError):
        store.resolve(reference)


HOSTILE = st.text(max_size=80) | st.lists(
    st.sampled_from(["..", "/", "\\", "%2e", "\0", "a", ".", "-", "latest", "~", "C:", " "]),
    max_size=8,
).map("".join)


@given(name=HOSTILE)
def test_only_plain_names_reach_the_file_system(name: str) -> None:
    looked_at: list[Path] = []

    def look(path: Path) -> bool:
        looked_at.append(path)
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "is_file", look)
        store.is_registered(name)
    assert all(path.parent.name == name and path.parts.count("..") == 0 for path in looked_at)
    assert bool(looked_at) == bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name))


def test_references_to_another_model(store_home: Path) -> None:
    with pytest.raises(StoreError, match="names the model 'resnet'"):
        store.resolve("resnet:1")


def test_an_empty_store(store_home: Path) -> None:
    assert store.list_models() == []
    with pytest.raises(StoreError, match="no model in"):
        store.resolve("latest")


def test_bentomls_own_commands_show_it(registered: str, store_home: Path, tmp_path: Path) -> None:
    listing = run_command("bentoml", "models", "list", "-o", "json", cwd=tmp_path, home=store_home)
    assert registered in listing.stdout
    details = run_command("bentoml", "models", "get", registered, cwd=tmp_path, home=store_home)
    assert details.returncode == 0, details.stderr
    for shown in (
        "held_out_accuracy: 1.0",
        "num_classes: 3",
        "strategy: fc",
        "architecture: vgg19",
    ):
        assert shown in details.stdout
    production = run_command("bentoml", "models", "get", "vgg19", cwd=tmp_path, home=store_home)
    assert registered.partition(":")[2] in production.stdout


class TestRollback:
    def test_to_what_was_before(self, registered: str, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="there is nothing to go back to"):
            store.rollback()
        store.promote(registered)
        newer = store.register(
            write_tiny_bundle(tmp_path / "newer", created_at="2026-02-28T12:00:00+00:00")
        )
        store.promote(newer, "a better one")
        assert store.rollback(why="it was not") == registered
        assert [(p.version, p.why) for p in store.promotions()] == [
            (registered.partition(":")[2], "it was not"),
            (newer.partition(":")[2], "a better one"),
            (registered.partition(":")[2], "promoted by hand"),
        ]
        assert store.rollback(newer) == newer

    def test_not_to_what_is_gone(self, registered: str, tmp_path: Path, store_home: Path) -> None:
        newer = store.register(
            write_tiny_bundle(tmp_path / "newer", created_at="2026-02-28T12:00:00+00:00")
        )
        store.promote(registered)
        store.promote(newer)
        shutil.rmtree(store_home / "models" / "vgg19" / registered.partition(":")[2])
        with pytest.raises(StoreError, match="no model vgg19:"):
            store.rollback()
        assert store.production_version() == newer.partition(":")[2]


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_the_metadata_name_the_rule_of_the_shape(
    store_home: Path, tmp_path: Path, resize: Resize
) -> None:
    path = write_tiny_bundle(tmp_path / "bundle")
    spec = ModelSpec.read(path / SPEC_FILE)
    rule = Preprocessing(image_size=32, resize=resize, resize_size=32)
    spec.model_copy(update={"preprocessing": rule}).write(path / SPEC_FILE)
    write_manifest(path, read_manifest(path).provenance)
    store.register(path)
    metadata = store.list_models()[0].metadata
    assert (metadata["image_size"], metadata["resize"]) == (32, resize)


def test_a_rejected_model_is_never_the_latest(registered: str, tmp_path: Path) -> None:
    rejected = store.register(
        write_tiny_bundle(tmp_path / "newer", created_at="2026-02-28T12:00:00+00:00"),
        rejected="it is worse",
    )
    assert f"vgg19:{store.resolve('latest')}" == registered
    assert store.list_models()[0].metadata["rejected"] == "it is worse"
    assert store.promote(rejected) == rejected  # whoever names it may have it
