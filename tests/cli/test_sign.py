from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from models.bundle.bundle import CARD_FILE, SIGNATURE_FILE
from models.bundle.signature import PASSPHRASE, SignatureError
from models.errors import BundleError
from models.registry import store
from tests.keys import write_keys


def vgg19(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.delenv(PASSPHRASE, raising=False)
    return write_keys(tmp_path)


def test_before_it_is_registered(
    store_home: Path, tiny_bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    tiny_bundle.rename(run / "bundle")
    assert f"signed {run}/bundle" in vgg19("sign", run, "--key", keys[0])
    assert "what was signed" in vgg19("verify", run, "--key", keys[1])
    assert "what was signed" in vgg19("verify", run / "bundle", "--key", keys[1])
    tag = store.register(run / "bundle")
    assert "what was signed" in vgg19("verify", tag, "--key", keys[1])


def test_after_it_was_registered(
    store_home: Path, tiny_bundle: Path, keys: tuple[Path, Path]
) -> None:
    tag = store.register(tiny_bundle)
    store.promote(tag)
    for reference in (tag, "production", "latest"):
        signature = store.stored_path(store.resolve(tag)) / SIGNATURE_FILE
        signature.unlink(missing_ok=True)
        with pytest.raises(SignatureError, match="is not signed"):
            vgg19("verify", reference, "--key", keys[1])
        vgg19("sign", reference, "--key", keys[0])
        assert "what was signed" in vgg19("verify", reference, "--key", keys[1])
    assert not (tiny_bundle / SIGNATURE_FILE).exists()
    assert [model.tag for model in store.list_models()] == [tag]  # for BentoML as before


def test_verify_looks_at_every_file(tiny_bundle: Path, keys: tuple[Path, Path]) -> None:
    vgg19("sign", tiny_bundle, "--key", keys[0])
    (tiny_bundle / CARD_FILE).write_text("another")
    with pytest.raises(BundleError, match=r"README\.md does not match"):
        vgg19("verify", tiny_bundle, "--key", keys[1])
