"""A real service that requires signatures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.bundle.bundle import CARD_FILE, SIGNATURE_FILE
from models.bundle.manifest import read_manifest
from models.bundle.signature import Signer
from models.bundle.writer import write_manifest
from models.registry import store
from testing import patient
from testing.bundles import write_tiny_bundle
from testing.commands import run_command
from testing.images import coloured_pixels, encode
from testing.server import Server, promote, serve, store_of
from testing.waiting import wait_until
from tests.integration.conftest import refusal
from tests.keys import write_keys

IMAGE = encode(coloured_pixels(1))


class Place:
    """A home whose production model is signed, beside an unsigned version, and keys."""

    def __init__(self, path: Path) -> None:
        self.home = path / "home"
        self.private, self.public = write_keys(path)
        self.versions: list[str] = []
        for day in (1, 2):
            bundle = write_tiny_bundle(path / f"bundle{day}", f"2026-01-0{day}T12:00:00+00:00")
            if day == 1:
                Signer(self.private).sign(bundle)
            with store_of(self.home):
                self.versions.append(store.register(bundle).removeprefix("vgg19:"))
        promote(self.home, self.versions[0])

    def vgg19(self, *arguments: str) -> str:
        result = run_command("vgg19", *arguments, cwd=self.home.parent, home=self.home)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def bundle(self, version: str) -> Path:
        return self.home / "models" / "vgg19" / version

    def settings(self, **changes: str) -> dict[str, str]:
        required = {"VGG19_REQUIRE_SIGNATURE": "1", "VGG19_SIGNATURE_KEY": str(self.public)}
        return required | {"VGG19_WATCH_INTERVAL_S": "1"} | changes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("signed"))


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with serve(place.home, place.home / "server.log", **place.settings()) as server:
        yield server


def model(server: Server) -> dict[str, object]:
    reply: dict[str, object] = patient.get(f"{server.url}/model").json()
    return reply


def wait_for(server: Server, reached: Callable[[dict[str, object]], bool]) -> dict[str, object]:
    replies: list[dict[str, object]] = []

    def has_come() -> bool:
        replies.append(model(server))
        return reached(replies[-1])

    wait_until(has_come)
    return replies[-1]


def test_an_unsigned_model_does_not_take_over_until_it_is_signed(
    place: Place, server: Server
) -> None:
    signed, unsigned = place.versions
    assert model(server)["version"] == signed
    place.vgg19("promote", unsigned)
    failed = wait_for(server, lambda reply: reply["failed_load"] is not None)["failed_load"]
    assert isinstance(failed, dict)
    assert failed["version"] == unsigned
    assert "is not signed" in failed["reason"]
    reply = patient.post(
        f"{server.url}/classify", content=IMAGE, headers={"Content-Type": "image/png"}
    )
    assert (reply.status_code, reply.json()["model_version"]) == (200, signed)

    place.vgg19("sign", unsigned, "--key", str(place.private))
    place.vgg19("promote", unsigned)
    reply_now = wait_for(server, lambda reply: reply["version"] == unsigned)
    assert reply_now["failed_load"] is None


def remove_signature(bundle: Path) -> None:
    (bundle / SIGNATURE_FILE).unlink()


def alter_and_seal(bundle: Path) -> None:
    (bundle / CARD_FILE).write_text("# the best of all models")
    write_manifest(bundle, read_manifest(bundle).provenance)


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (remove_signature, "is not signed; sign it with 'vgg19 sign"),
        pytest.param(
            alter_and_seal,
            "is not a signature of this manifest.json by the key of",
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_it_does_not_start_with_what_is_not_signed(
    place: Place, tmp_path: Path, alter: Callable[[Path], None], words: str
) -> None:
    home = tmp_path / "home"
    shutil.copytree(place.home, home)
    alter(home / "models" / "vgg19" / place.versions[0])
    assert words in refusal(home, **place.settings(VGG19_MODEL=place.versions[0]))


@pytest.mark.parametrize("kind", ["missing", pytest.param("private", marks=pytest.mark.exhaustive)])
def test_it_does_not_start_with_a_key_that_cannot_be_used(place: Place, kind: str) -> None:
    key = place.private if kind == "private" else place.private.with_name("none.pem")
    words = "none.pem can't be read" if kind == "missing" else "is not the public half of an ECDSA"
    assert words in refusal(place.home, **place.settings(VGG19_SIGNATURE_KEY=str(key)))


def test_it_does_not_start_without_the_package(place: Place, tmp_path: Path) -> None:
    (tmp_path / "model_signing.py").write_text("raise ImportError('not installed')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    told = refusal(place.home, **place.settings(PYTHONPATH=path))
    assert "install it with pip install -e '.[sign]'" in told
