"""What counts as signed, and above all what doesn't."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from models.bundle.bundle import CARD_FILE, MODEL_FILE, SIGNATURE_FILE, open_bundle
from models.bundle.manifest import MANIFEST_FILE, read_manifest
from models.bundle.signature import PASSPHRASE, SignatureError, Signer, Verifier
from models.bundle.writer import write_manifest
from models.errors import BundleError
from testing.bundles import write_tiny_bundle
from testing.commands import run_command
from tests.keys import write_keys, write_private_key, write_public_key

Keys = tuple[Path, Path]


@pytest.fixture(autouse=True)
def no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE, raising=False)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return write_keys(tmp_path)


@pytest.fixture
def signed(tiny_bundle: Path, keys: Keys) -> Path:
    Signer(keys[0]).sign(tiny_bundle)
    return tiny_bundle


def verify(bundle: Path, key: Path) -> None:
    open_bundle(bundle, Verifier(key).check)


def test_a_signature_is_a_file_more_and_changes_no_other(tiny_bundle: Path, keys: Keys) -> None:
    before = {path.name: path.read_bytes() for path in tiny_bundle.iterdir()}
    Signer(keys[0]).sign(tiny_bundle)
    after = {path.name: path.read_bytes() for path in tiny_bundle.iterdir()}
    assert after.pop(SIGNATURE_FILE)
    assert after == before
    verify(tiny_bundle, keys[1])


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_curves(tiny_bundle: Path, tmp_path: Path, curve: type[ec.EllipticCurve]) -> None:
    private, public = write_keys(tmp_path, "other", curve)
    Signer(private).sign(tiny_bundle)
    verify(tiny_bundle, public)


def test_the_librarys_own_command_can_check_it(signed: Path, keys: Keys) -> None:
    result = run_command(
        "model_signing", "verify", "key", MANIFEST_FILE, "--signature", SIGNATURE_FILE,
        "--public_key", str(keys[1]), cwd=signed, home=signed,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_signed_again_the_last_key_counts(signed: Path, keys: Keys, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "next")
    Signer(private).sign(signed)
    verify(signed, public)
    with pytest.raises(SignatureError, match="another key signed it"):
        verify(signed, keys[1])


def test_one_verifier_for_several(signed: Path, keys: Keys, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other", "2026-02-28T12:00:00+00:00")
    Signer(keys[0]).sign(other)
    verifier = Verifier(keys[1])
    for bundle in (signed, other, signed):
        open_bundle(bundle, verifier.check)


def alter_weights(bundle: Path) -> None:
    content = bytearray((bundle / MODEL_FILE).read_bytes())
    content[-1] ^= 1
    (bundle / MODEL_FILE).write_bytes(content)


def alter_and_seal(bundle: Path) -> None:
    """As somebody would who can write the bundle, but has no key."""
    (bundle / CARD_FILE).write_text("# the best of all models")
    write_manifest(bundle, read_manifest(bundle).provenance)


def alter_manifest(bundle: Path) -> None:
    manifest = bundle / MANIFEST_FILE
    manifest.write_bytes(manifest.read_bytes() + b" ")  # still says the same


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (alter_weights, "does not match its manifest"),
        (alter_and_seal, "is not a signature of this manifest.json"),
        (alter_manifest, "is not a signature of this manifest.json"),
        (lambda bundle: (bundle / SIGNATURE_FILE).unlink(), "is not signed; sign it with 'vgg19"),
    ],
)
def test_what_was_altered(signed: Path, keys: Keys, alter: Any, words: str) -> None:
    alter(signed)
    with pytest.raises((SignatureError, BundleError), match=words):
        verify(signed, keys[1])


def test_another_bundles_signature(signed: Path, keys: Keys, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other", "2026-02-28T12:00:00+00:00")
    shutil.copy(signed / SIGNATURE_FILE, other / SIGNATURE_FILE)
    with pytest.raises(SignatureError, match=r"is not a signature of this manifest\.json"):
        verify(other, keys[1])


Json = dict[str, Any]


def without_signatures(signature: Json) -> None:
    signature["dsseEnvelope"]["signatures"] = []


def without_key(signature: Json) -> None:
    signature["verificationMaterial"] = {}


def with_another_hint(signature: Json) -> None:
    signature["verificationMaterial"]["publicKey"]["hint"] = "0" * 64


def with_another_payload(signature: Json) -> None:
    signature["dsseEnvelope"]["payload"] = signature["dsseEnvelope"]["payload"][4:]


def with_another_type(signature: Json) -> None:
    signature["dsseEnvelope"]["payloadType"] = "text/plain"


@pytest.mark.parametrize(
    "alter",
    [
        without_signatures,
        without_key,
        with_another_hint,
        with_another_payload,
        with_another_type,
    ],
)
def test_a_signature_that_was_altered(
    signed: Path, keys: Keys, alter: Callable[[Json], None]
) -> None:
    file = signed / SIGNATURE_FILE
    content = json.loads(file.read_text())
    alter(content)
    file.write_text(json.dumps(content))
    with pytest.raises(SignatureError, match=r"is not a signature of this manifest\.json"):
        verify(signed, keys[1])


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"{}", b"[]", b"null", b"\xff\x00", b"[" * 90_000, b'{"a":' * 1000, b" " * 10**6],
    ids=range(9),
)
def test_garbage_in_place_of_a_signature(signed: Path, keys: Keys, content: bytes) -> None:
    (signed / SIGNATURE_FILE).write_bytes(content)
    with pytest.raises(SignatureError, match=r"is not a signature of this manifest\.json"):
        verify(signed, keys[1])


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_signature_that_is_no_file_is_not_read(
    signed: Path, keys: Keys, tmp_path: Path, kind: str
) -> None:
    file = signed / SIGNATURE_FILE
    file.rename(tmp_path / "elsewhere.sig")
    if kind == "link":
        file.symlink_to(tmp_path / "elsewhere.sig")
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        file.mkdir()
    with pytest.raises(BundleError, match=r"model\.sig is (a link|missing)"):
        verify(signed, keys[1])


def test_what_was_checked_is_what_is_read(signed: Path, keys: Keys) -> None:
    """Though the manifest is exchanged as soon as its signature was found good."""
    verifier = Verifier(keys[1])
    original = read_manifest(signed)

    def check_and_exchange(path: Path, manifest: bytes) -> None:
        verifier.check(path, manifest)
        alter_and_seal(signed)

    with pytest.raises(BundleError, match=r"README\.md does not match its manifest"):
        open_bundle(signed, check_and_exchange)
    assert read_manifest(signed) != original


class TestSigning:
    def test_a_damaged_bundle_is_not_signed(self, signed: Path, keys: Keys) -> None:
        before = (signed / SIGNATURE_FILE).read_bytes()
        alter_weights(signed)
        with pytest.raises(BundleError, match="does not match its manifest"):
            Signer(keys[0]).sign(signed)
        assert (signed / SIGNATURE_FILE).read_bytes() == before
        assert not list(signed.glob(".*"))

    def test_nothing_is_made_where_no_bundle_is(self, keys: Keys, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="does not exist"):
            Signer(keys[0]).sign(tmp_path / "none")
        assert not (tmp_path / "none").exists()

    def test_a_link_in_the_signatures_place_is_replaced(
        self, tiny_bundle: Path, keys: Keys, tmp_path: Path
    ) -> None:
        (tmp_path / "precious").write_text("precious")
        (tiny_bundle / SIGNATURE_FILE).symlink_to(tmp_path / "precious")
        Signer(keys[0]).sign(tiny_bundle)
        assert (tmp_path / "precious").read_text() == "precious"
        verify(tiny_bundle, keys[1])

    def test_with_an_encrypted_key(
        self, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        private = write_private_key(tmp_path / "encrypted.pem", key, "süß")
        with pytest.raises(
            SignatureError, match=f"is encrypted; put its passphrase into {PASSPHRASE}"
        ):
            Signer(private)
        monkeypatch.setenv(PASSPHRASE, "bitter")
        with pytest.raises(SignatureError, match=f"{PASSPHRASE} isn't its passphrase, or"):
            Signer(private)
        monkeypatch.setenv(PASSPHRASE, "süß")
        Signer(private).sign(tiny_bundle)
        verify(tiny_bundle, write_public_key(tmp_path / "encrypted.pub", key))

    def test_a_passphrase_that_is_not_needed(
        self, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PASSPHRASE, "secret")
        with pytest.raises(SignatureError, match="has no passphrase, but") as error:
            Signer(keys[0])
        assert "secret" not in str(error.value)


@pytest.mark.parametrize("use", [Signer, Verifier])
class TestKeys:
    @pytest.mark.parametrize(
        "key",
        [
            rsa.generate_private_key(65537, 2048),
            ed25519.Ed25519PrivateKey.generate(),
            ec.generate_private_key(ec.SECP256K1()),
        ],
        ids=["rsa", "ed25519", "secp256k1"],
    )
    def test_of_another_kind(self, use: Any, tmp_path: Path, key: Any) -> None:
        write = write_private_key if use is Signer else write_public_key
        with pytest.raises(SignatureError, match="an ECDSA key on P-256, P-384 or P-521 in PEM"):
            use(write(tmp_path / "other.pem", key))

    def test_the_other_half(self, use: Any, keys: Keys) -> None:
        with pytest.raises(SignatureError, match="an ECDSA key on P-256, P-384 or P-521 in PEM"):
            use(keys[1] if use is Signer else keys[0])

    def test_no_key(self, use: Any, tmp_path: Path) -> None:
        (tmp_path / "garbage").write_bytes(b"\0garbage")
        with pytest.raises(SignatureError, match="an ECDSA key on P-256, P-384 or P-521 in PEM"):
            use(tmp_path / "garbage")

    @pytest.mark.parametrize(("name", "why"), [("none", "No such file"), ("", "Is a directory")])
    def test_no_file(self, use: Any, tmp_path: Path, name: str, why: str) -> None:
        with pytest.raises(SignatureError, match=f"can't be read: {why}"):
            use(tmp_path / name)

    def test_without_the_package(
        self, use: Any, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "model_signing", None)
        with pytest.raises(SignatureError, match=r"install it with pip install -e '.*\[sign\]'"):
            use(keys[0])
