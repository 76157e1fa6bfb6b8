"""A client of the service's HTTP interface, for `vgg19 classify`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from models.errors import UserError
from models.text import utf8

# Above the service's own limit (VGG19_REQUEST_TIMEOUT_MS), so that its answer is the one seen.
_TIMEOUT_S = 60.0
# The service takes 64 images (VGG19_MAX_REQUEST_IMAGES) unless it is told otherwise.
_FILES_A_REQUEST = 32
# What the service answers where it takes none of a request's images: they are bad, or too large.
_NO_IMAGE_TAKEN = (httpx.codes.BAD_REQUEST, httpx.codes.REQUEST_ENTITY_TOO_LARGE)
_PLACE = re.compile(r"^image \d+: ")


class ClientError(UserError):
    """The service can't be reached or refuses."""


@dataclass(frozen=True)
class Classified:
    """What the service says of a file: the image's part of its reply; or why it says nothing."""

    file: Path
    reply: dict[str, Any] | None = None
    error: str = ""


class Service:
    """A running service.

    Args:
        url: `http://` may be left out.
        key: an API key, sent with each request; "": none.

    Attributes:
        model: name and version of the model that answered last.
    """

    def __init__(self, url: str, key: str = "") -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.model = ""
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def classify(
        self, files: Sequence[Path], top_k: int, *, explain: bool = False
    ) -> Iterator[Classified]:
        """POST image files, in as many requests as it takes.

        Args:
            explain: ask for heat maps as well.

        Yields:
            one for each file, in their order. A file that can't be read, or that the service
            doesn't take, has an error and stops nothing.

        Raises:
            ClientError: nobody answers, or the service refuses the request; with its words.
        """
        options = {"top_k": top_k} | ({"explain": "true"} if explain else {})
        for first in range(0, len(files), _FILES_A_REQUEST):
            some = files[first : first + _FILES_A_REQUEST]
            read = {file: _read(file) for file in some}
            good = [file for file, content in read.items() if isinstance(content, bytes)]
            answers = {answer.file: answer for answer in self._classify(good, read, options)}
            for file in some:
                yield answers.get(file) or Classified(file, error=str(read[file]))

    def described(self) -> dict[str, Any]:
        """What `GET /model` says.

        Raises:
            ClientError: as `classify`.
        """
        response, content = self._ask("GET", "/model", "spec")
        if response.status_code != httpx.codes.OK:
            raise _refused(response, content)
        return content

    def _classify(
        self, files: Sequence[Path], read: dict[Path, Any], options: dict[str, Any]
    ) -> list[Classified]:
        if not files:
            return []
        parts = [("image", (utf8(file.name), read[file])) for file in files]
        response, content = self._ask("POST", "/classify", "images", params=options, files=parts)
        if response.status_code == httpx.codes.OK:
            self.model = f"{content['model_name']}:{content['model_version']}"
            return [_answer(*pair) for pair in zip(files, content["images"], strict=True)]
        if response.status_code not in _NO_IMAGE_TAKEN:
            raise _refused(response, content)
        if len(files) == 1:
            return [Classified(files[0], error=content["detail"])]
        return [answer for file in files for answer in self._classify([file], read, options)]

    def _ask(
        self, method: str, path: str, holds: str, **parts: Any
    ) -> tuple[httpx.Response, dict[str, Any]]:
        """`holds`: what is in an answer of this service, unless it refuses."""
        try:
            response = httpx.request(
                method, self.url + path, headers=self._headers, timeout=_TIMEOUT_S, **parts
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ClientError(
                f"no service answers at {self.url} ({error}); start one with 'vgg19 serve'"
            ) from None
        try:
            content: Any = response.json()
        except ValueError:
            content = None
        expected = holds if response.status_code == httpx.codes.OK else "detail"
        if not isinstance(content, dict) or expected not in content:
            raise ClientError(f"{self.url} answers {response.status_code}, but is not this service")
        return response, content


def api_key(variable: str | None, file: Path | None) -> str:
    """The API key in an environment variable or a file, which the list of processes doesn't show;
    "" where neither is named.

    Raises:
        ClientError: it isn't there, or both are named.
    """
    if variable is not None and file is not None:
        raise ClientError("--api-key-env and --api-key-file are two places of one key; name one")
    if variable is not None:
        if not os.environ.get(variable):
            raise ClientError(f"--api-key-env {variable}: it is not set; it is to hold the API key")
        return _checked(os.environ[variable], f"--api-key-env {variable}")
    if file is None:
        return ""
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"--api-key-file {file} can't be read: {error}") from None
    return _checked(key, f"--api-key-file {file}")


def _checked(key: str, where: str) -> str:
    """What may stand in a header."""
    if not key.isascii() or not key.isprintable() or not key:
        raise ClientError(f"{where} holds no key; 'vgg19 key' makes one")
    return key


def _answer(file: Path, image: dict[str, Any]) -> Classified:
    if "error" in image:  # which names its place in the request
        return Classified(file, error=_PLACE.sub("", image["error"]))
    return Classified(file, image)


def _refused(response: httpx.Response, content: dict[str, Any]) -> ClientError:
    hint = ""
    if response.status_code == httpx.codes.UNAUTHORIZED:
        hint = "; name where it is with --api-key-env or --api-key-file"
    return ClientError(f"the service refuses ({response.status_code}): {content['detail']}{hint}")


def _read(file: Path) -> bytes | str:
    """Its content, or why it has none."""
    try:
        return file.read_bytes()
    except OSError as error:
        return f"can't be read: {error.strerror}"
