"""A client of the service's HTTP interface, for `vgg19 classify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from models.errors import UserError
from models.text import utf8

# Above the service's own limit (VGG19_REQUEST_TIMEOUT_MS), so that its answer is the one seen.
_TIMEOUT_S = 60.0
# The service takes 64 images (VGG19_MAX_REQUEST_IMAGES) unless it is told otherwise.
_FILES_A_REQUEST = 32


class ClientError(UserError):
    """The service can't be reached or refuses."""


def classify_files(url: str, files: Sequence[Path], top_k: int) -> dict[str, Any]:
    """POST image files to a running service, in as many requests as it takes.

    Returns:
        the service's reply, with the images of all requests.

    Raises:
        ClientError: a file can't be read, nobody answers, or the service refuses; with its words.
    """
    replies = [
        _classify(url, files[first : first + _FILES_A_REQUEST], top_k)
        for first in range(0, len(files), _FILES_A_REQUEST)
    ]
    return replies[-1] | {"images": [image for reply in replies for image in reply["images"]]}


def _classify(url: str, files: Sequence[Path], top_k: int) -> dict[str, Any]:
    parts = [("image", (utf8(file.name), _read(file))) for file in files]
    try:
        response = httpx.post(
            f"{url.rstrip('/')}/classify", params={"top_k": top_k}, files=parts, timeout=_TIMEOUT_S
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ClientError(
            f"no service answers at {url} ({error}); start one with 'vgg19 serve'"
        ) from None
    try:
        content: Any = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict) or not content.keys() & {"images", "detail"}:
        raise ClientError(f"{url} answers {response.status_code}, but is not this service")
    if response.status_code != httpx.codes.OK:
        raise ClientError(f"the service refuses ({response.status_code}): {content['detail']}")
    return content


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ClientError(f"{file} can't be read: {error.strerror}") from None
