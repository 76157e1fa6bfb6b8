"""Signatures of bundles, with sigstore's model-signing (the extra `sign`): by a key, offline.

What is signed is manifest.json, and by the SHA-256 in it every other file: `open_bundle` compares
those in any case, so a signature costs milliseconds instead of another pass over all bytes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.bundle.bundle import SIGNATURE_FILE, Bundle, open_bundle, signature_of
from models.bundle.manifest import MANIFEST_FILE
from models.errors import UserError
from models.extras import install_command
from models.files import staged_file

# Not VGG19_..., which is for the service's settings; it takes no others.
PASSPHRASE = "MODEL_SIGNING_PASSPHRASE"  # noqa: S105  # the name of the variable
_MAX_SIGNATURE_BYTES = 100_000  # it has 2 kB
_KEYS = "an ECDSA key on P-256, P-384 or P-521 in PEM; docs/operate/secure.md tells how to make one"


class SignatureError(UserError):
    """A bundle isn't signed as it must be, or a key can't be used."""


class Signer:
    """Signs bundles with a private key. The passphrase of an encrypted one is in `PASSPHRASE`.

    Raises:
        SignatureError: the key can't be used, or model-signing isn't installed.
    """

    def __init__(self, key: Path) -> None:
        passphrase = os.environ.get(PASSPHRASE) or None
        library = _model_signing()
        try:
            self._config = library.signing.Config().use_elliptic_key_signer(
                private_key=key,
                # Annotated as str, and given to a function that takes nothing but bytes.
                password=passphrase.encode() if passphrase else None,
            )
        except OSError as error:
            raise SignatureError(f"the key {key} can't be read: {error.strerror}") from None
        except TypeError:
            raise SignatureError(
                f"the key {key} has no passphrase, but {PASSPHRASE} is set; unset it"
                if passphrase
                else f"the key {key} is encrypted; put its passphrase into {PASSPHRASE}"
            ) from None
        except Exception as error:  # of another kind of key, a missing attribute
            wrong = f"{PASSPHRASE} isn't its passphrase, or it isn't" if passphrase else "it isn't"
            raise SignatureError(f"the key {key} can't sign: {wrong} {_KEYS}") from error

    def sign(self, path: Path) -> Bundle:
        """Sign the bundle at `path`, after checking its files; a signature there is replaced.

        Raises:
            BundleError: there is none, or its files don't match its manifest.
        """
        with tempfile.TemporaryDirectory() as directory:
            signature = Path(directory) / SIGNATURE_FILE
            bundle = open_bundle(path, lambda _, manifest: self._sign(manifest, signature))
            with staged_file(path / SIGNATURE_FILE) as staging:
                shutil.copyfile(signature, staging)
        return bundle

    def _sign(self, manifest: bytes, signature: Path) -> None:
        with _as_files(manifest) as (manifest_file, _):
            self._config.sign(manifest_file, signature)


class Verifier:
    """Checks signatures with a public key.

    Raises:
        SignatureError: the key can't be used, or model-signing isn't installed.
    """

    def __init__(self, key: Path) -> None:
        self._key = key
        self._library = _model_signing()
        try:
            self._config = self._library.verifying.Config().use_elliptic_key_verifier(
                public_key=key
            )
        except OSError as error:
            raise SignatureError(f"the key {key} can't be read: {error.strerror}") from None
        except Exception as error:  # of another kind of key, a missing attribute
            raise SignatureError(f"{key} is not the public half of {_KEYS}") from error

    def check(self, path: Path, manifest: bytes) -> None:
        """Compare the signature in the bundle at `path` with its manifest; for `open_bundle`.

        Raises:
            SignatureError: there is none, or it isn't this manifest's by this key.
            BundleError: it is a link, or no file.
        """
        signature = signature_of(path)
        if signature is None:
            raise SignatureError(
                f"{path} is not signed; sign it with 'vgg19 sign {path} --key PRIVATE_KEY'"
            )
        # Afresh each time: the library's own would remember what the last signature ignored.
        self._config.set_hashing_config(self._library.hashing.Config())
        with _as_files(manifest, _beginning(signature)) as files:
            try:
                self._config.verify(*files)
            except Exception as error:  # a dozen types, as it may hold anything
                raise SignatureError(
                    f"{signature} is not a signature of this {MANIFEST_FILE} by the key of "
                    f"{self._key}: the one or the other was altered, or another key signed it"
                ) from error


@contextmanager
def _as_files(manifest: bytes, signature: bytes = b"") -> Iterator[tuple[Path, Path]]:
    """What was read, for the library, which takes only files, and might find others by now."""
    with tempfile.TemporaryDirectory() as directory:
        files = Path(directory) / MANIFEST_FILE, Path(directory) / SIGNATURE_FILE
        files[0].write_bytes(manifest)
        files[1].write_bytes(signature)
        yield files


def _beginning(signature: Path) -> bytes:
    """All of it, if it is a signature."""
    with signature.open("rb") as file:
        return file.read(_MAX_SIGNATURE_BYTES)


def _model_signing() -> Any:
    """Imported when it is needed: it takes half a second and 50 MB."""
    try:
        import model_signing
    except ImportError as error:
        raise SignatureError(
            f"signatures need the package model-signing ({error}); install it with "
            f"{install_command('sign')}"
        ) from None
    return model_signing
