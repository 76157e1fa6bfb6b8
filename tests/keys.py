"""Keys to sign models with."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_PEM = serialization.Encoding.PEM


def write_keys(
    directory: Path, name: str = "key", curve: type[ec.EllipticCurve] = ec.SECP256R1
) -> tuple[Path, Path]:
    """A new pair of keys to sign models with: `NAME.pem` and `NAME.pub`."""
    key = ec.generate_private_key(curve())
    return write_private_key(directory / f"{name}.pem", key), write_public_key(
        directory / f"{name}.pub", key
    )


def write_private_key(path: Path, key: PrivateKeyTypes, passphrase: str = "") -> Path:
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode())
        if passphrase
        else serialization.NoEncryption()
    )
    path.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encryption))
    return path


def write_public_key(path: Path, key: PrivateKeyTypes) -> Path:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(_PEM, form))
    return path
