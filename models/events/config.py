"""Where events go, from the environment: the same variables for commands and for the service."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import SplitResult, urlsplit

from models.errors import UserError
from models.loopback import is_loopback

URL, KEY_FILE = "VGG19_EVENTS_URL", "VGG19_EVENTS_KEY_FILE"
ALLOW_HTTP, QUEUE, SOURCE = (
    "VGG19_EVENTS_ALLOW_HTTP",
    "VGG19_EVENTS_QUEUE",
    "VGG19_EVENTS_SOURCE",
)
DEFAULT_SOURCE = "/vgg19"
# Of the Standard Webhooks specification, section "Signature scheme"; it wants 24 to 64 bytes.
_KEY_PREFIX, _MIN_KEY_BYTES, _MAX_KEY_BYTES = "whsec_", 24, 64
_YES, _NO = ("1", "true", "yes", "on", "t", "y"), ("0", "false", "no", "off", "f", "n", "")
_MAX_KEY_FILE = 10_000


class EventsError(UserError):
    """Events can't be sent as the environment wants it. The message holds neither key nor URL."""


@dataclass(frozen=True)
class EventsConfig:
    """Where events go.

    Args:
        url: checked by `parse_url`; it may hold a secret in its path.
        queue: directory of the outbox.
    """

    url: SplitResult = field(repr=False)
    key_file: Path
    queue: Path
    source: str = DEFAULT_SOURCE

    @property
    def receiver(self) -> str:
        """Who receives, to show: without the path, in which services put secrets."""
        return f"{self.url.scheme}://{self.url.netloc}"


def check(config: EventsConfig) -> None:
    """Raises EventsError: the file of keys or the queue's directory can't be used. For the start of
    a service, which would else be silent about what it can't tell."""
    read_keys(config.key_file)
    try:
        config.queue.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=config.queue):
            pass
    except OSError as error:
        raise EventsError(
            f"events can't wait in {config.queue}: {error.strerror}; name a directory that can be "
            f"written with {QUEUE}"
        ) from None


def from_environment(environ: Mapping[str, str] = os.environ) -> EventsConfig | None:
    """None: no events are wanted.

    Raises:
        EventsError: they are, but not in a way that can be.
    """
    url = environ.get(URL, "").strip()
    if not url:
        return None
    allows = environ.get(ALLOW_HTTP, "").strip().lower()
    if allows not in _YES + _NO:
        raise EventsError(f"{ALLOW_HTTP} is '{allows[:50]}': it is to be true or false")
    key_file = environ.get(KEY_FILE, "").strip()
    if not key_file:
        raise EventsError(f"{URL} is set, so {KEY_FILE} must be: events are signed")
    queue = environ.get(QUEUE, "").strip()
    return EventsConfig(
        url=parse_url(url, allow_http=allows in _YES),
        key_file=Path(key_file),
        queue=Path(queue) if queue else default_queue(),
        source=environ.get(SOURCE, "").strip() or DEFAULT_SOURCE,
    )


def default_queue() -> Path:
    """Beside the store, where its commands and its services all find it. (BentoML takes every
    directory inside for a model.)"""
    from models.registry import store  # and with it BentoML, for a second

    return store.store_path().parent / ".vgg19-events"


def parse_url(url: str, *, allow_http: bool) -> SplitResult:
    """A URL that events may go to.

    Args:
        allow_http: also without TLS to another machine.

    Raises:
        EventsError: it is none; the URL is no part of the message.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")  # as a look-up of it would be: of a..b it raises UnicodeError
    except ValueError:
        host = None
    is_sendable = url.isascii() and url.isprintable() and " " not in url
    if not host or parts.scheme not in ("https", "http") or not is_sendable:
        raise EventsError(f"{URL} can't be used: it is to be https://HOST/PATH")
    if "@" in parts.netloc:
        raise EventsError(
            f"{URL} can't be used: it holds a user or a password; events are signed with "
            f"{KEY_FILE}, leave them out"
        )
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise EventsError(
            f"{URL} can't be used: http goes in clear text to {host}; use https, or set "
            f"{ALLOW_HTTP}=true where the network is trusted"
        )
    return parts


def read_keys(file: Path) -> list[bytes]:
    """The keys in a file, one a line; each signs, so that a new one can be brought in beside the
    old one.

    Raises:
        EventsError: it can't be read, or holds something else.
    """
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(_MAX_KEY_FILE)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise EventsError(f"{KEY_FILE} {file} can't be read: {reason}") from None
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    keys = [_key(line, file) for line in lines if line]
    if not keys:
        raise EventsError(f"{KEY_FILE} {file} holds no key; 'vgg19 events key FILE' makes one")
    return keys


def new_key() -> str:
    """A key that nobody can guess, as a file holds it."""
    return _KEY_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def _key(line: str, file: Path) -> bytes:
    try:
        key = base64.b64decode(line.removeprefix(_KEY_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not line.startswith(_KEY_PREFIX) or not _MIN_KEY_BYTES <= len(key) <= _MAX_KEY_BYTES:
        raise EventsError(
            f"{KEY_FILE} {file} holds a line that is no key: one is {_KEY_PREFIX} and "
            f"{_MIN_KEY_BYTES} to {_MAX_KEY_BYTES} bytes in base64; 'vgg19 events key FILE' makes "
            "one"
        )
    return key
