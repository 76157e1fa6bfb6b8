"""Copies registered models to a URL and back: `vgg19 models push|pull`.

Below the URL lie `VERSION/` with the files of the store, and `production`, the version that was
promoted in the store that pushed last. The manifest is copied last, so a version that is still on
its way, or whose copy was interrupted, is no version yet. On arrival files are compared with it.
A signature may come later, or anew with another key: it is copied also where the version is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.bundle.bundle import SIGNATURE_FILE, open_bundle, signature_of
from models.bundle.manifest import MANIFEST_FILE
from models.errors import BundleError, UserError
from models.files import staged_file
from models.locations import list_files, open_location, reason, without_credentials
from models.registry import store

_PRODUCTION = "production"


class TransferError(UserError):
    """The URL can't be read or written, or doesn't hold what is asked for."""


def push(url: str, reference: str) -> str:
    """Copy a registered version to a URL, and tell there if it is the production model.

    Args:
        url: of a directory, such as file:///shared/models or s3://bucket/models.

    Returns:
        its tag.

    Raises:
        StoreError, BundleError: no such version, or its files are damaged.
        TransferError: the URL can't be written.
    """
    version = store.resolve(reference)
    bundle = store.open_stored(version)
    try:
        files, root = open_location(url)
        target = f"{root}/{version}"
        files.makedirs(target, exist_ok=True)
        signature = signature_of(bundle.path)
        if signature is not None:
            files.put_file(str(signature), f"{target}/{signature.name}")
        if not files.exists(f"{target}/{MANIFEST_FILE}"):
            names = {file.name for file in bundle.path.iterdir() if file.is_file()}
            for name in [*sorted(names - {SIGNATURE_FILE, MANIFEST_FILE}), MANIFEST_FILE]:
                files.put_file(str(bundle.path / name), f"{target}/{name}")
        if version == store.production_version_or_none():
            files.pipe_file(f"{root}/{_PRODUCTION}", version.encode())
    except Exception as error:  # each of fsspec's file systems has exceptions of its own
        raise TransferError(
            f"{without_credentials(url)} can't be written: {reason(error)}"
        ) from None
    return f"{store.MODEL_NAME}:{version}"


def pull(url: str, reference: str) -> str:
    """Copy a version from a URL into the store; if it is there, only its signature.

    Args:
        reference: a tag, a version, or production: what was promoted where it was pushed.

    Returns:
        its tag.

    Raises:
        TransferError: the URL can't be read, or has no such version.
        BundleError: what came doesn't match its manifest; it is not kept.
    """
    try:
        files, root = open_location(url)
        version = reference.removeprefix(f"{store.MODEL_NAME}:")
        if version == _PRODUCTION:
            version = files.cat_file(f"{root}/{_PRODUCTION}").decode().strip()
        if not version or "/" in version or version.startswith("."):
            raise TransferError(f"'{version}' is not a version")
        _fetch(files, f"{root}/{version}", version)
    except FileNotFoundError as error:
        raise TransferError(f"{without_credentials(url)} has no {reference} ({error})") from None
    except (TransferError, BundleError):
        raise
    except Exception as error:  # each of fsspec's file systems has exceptions of its own
        raise TransferError(f"{without_credentials(url)} can't be read: {reason(error)}") from None
    return f"{store.MODEL_NAME}:{version}"


def _fetch(files: Any, source: str, version: str) -> None:
    target = store.stored_path(version)
    if target.exists():
        _fetch_signature(files, source, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    files.cat_file(f"{source}/{MANIFEST_FILE}")  # without it, it is no version
    with store.staging_place() as place:
        entry = place / version
        entry.mkdir()
        for name, _ in list_files(files, source):
            files.get_file(f"{source}/{name}", str(entry / name))
        open_bundle(entry)
        entry.rename(target)


def _fetch_signature(files: Any, source: str, target: Path) -> None:
    if files.exists(f"{source}/{SIGNATURE_FILE}"):
        with staged_file(target / SIGNATURE_FILE) as staging:
            files.get_file(f"{source}/{SIGNATURE_FILE}", str(staging))
