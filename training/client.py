"""A client of the service's HTTP interface, for `vgg19 classify`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from models.errors import UserError

# Above the service's own limit (VGG19_REQUEST_TIMEOUT_MS), so that its answer is the one seen.
_TIMEOUT_S = 60.0


class ClientError(UserError):
    """The service can't be reached or refuses."""


def classify_files(url: str, files: Sequence[Path], top_k: int) -> dict[str, Any]:
    """POST image files to a running service and return its reply.

    Raises:
        ClientError: a file can't be read, nobody answers, or the service refuses; with its words.
    """
    with ExitStack() as stack:
        parts = [("image", (file.name, stack.enter_context(_open(file)))) for file in files]
        try:
            response = httpx.post(
                f"{url.rstrip('/')}/classify",
                params={"top_k": top_k},
                files=parts,
                timeout=_TIMEOUT_S,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ClientError(
                f"no service answers at {url} ({error}); start one with 'vgg19 serve'"
            ) from None
    try:
        content: dict[str, Any] = response.json()
    except ValueError:
        raise ClientError(
            f"{url} answers {response.status_code}, but it is not this service"
        ) from None
    if response.status_code != httpx.codes.OK:
        raise ClientError(f"the service refuses ({response.status_code}): {content.get('detail')}")
    return content


def _open(file: Path) -> Any:
    try:
        return file.open("rb")
    except OSError as error:
        raise ClientError(f"{file} can't be read: {error.strerror}") from None
