"""What there is to know of the environment's variables before they are settings: which of them are
Kubernetes' own, and which are paths. Imports nothing large, since every command begins here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, MutableMapping

from models.paths import absolute_path, absolute_url

PREFIX = "VGG19_"
# Files and folders that variables name; `tests/serving/test_settings.py` compares them with the
# settings. BentoML's stand among them because the service runs in another directory than the one
# where its command was typed.
PATHS = (
    "VGG19_STORE",
    "VGG19_SIGNATURE_KEY",
    "VGG19_API_KEYS_FILE",
    "VGG19_ADMIN_KEY_FILE",
    "VGG19_GRPC_TLS_CERT",
    "VGG19_GRPC_TLS_KEY",
    "VGG19_GRPC_TLS_CLIENT_CA",
    "VGG19_TENSORRT_CACHE",
    "VGG19_DRIFT_DIR",
    "VGG19_EVENTS_KEY_FILE",
    "VGG19_EVENTS_QUEUE",
    "VGG19_REVIEW",
    "BENTOML_HOME",
    "BENTOML_CONFIG",
)
# A path, or a URL that may lie in a file system.
URLS = ("VGG19_CAPTURE_URL",)

# What Kubernetes puts into every container beside a Service named vgg19 or vgg19-anything
# (https://kubernetes.io/docs/tutorials/services/connect-applications-service/). No setting ends so.
_LINK_NAME = re.compile(
    r"VGG19_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?"
    r"|PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)"
)
_LINK_PORT = re.compile(r"VGG19_([A-Z0-9_]+_)?PORT")  # VGG19_GRPC_PORT is a setting as well
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://\S*", re.IGNORECASE)


def is_service_link(name: str, value: str) -> bool:
    """Whether a variable is Kubernetes' and not the user's: by its name, and where a setting may
    have that name, by its value."""
    if _LINK_NAME.fullmatch(name):
        return True
    return _LINK_PORT.fullmatch(name) is not None and _LINK_VALUE.fullmatch(value) is not None


def prepare(environ: MutableMapping[str, str] = os.environ) -> None:
    """Make variables mean the same in every directory, and leave out those that are Kubernetes'.

    To be called where the command was typed: before the process, or one that it starts, goes to
    another directory.
    """
    for name in [name for name, value in environ.items() if is_service_link(name, value)]:
        del environ[name]
    for name in PATHS:
        if environ.get(name, "").strip():  # an empty one is an error of the settings
            environ[name] = absolute_path(environ[name])
    for name in URLS:
        if environ.get(name, "").strip():
            environ[name] = absolute_url(environ[name])


def misspelt(known: Iterable[str], environ: MutableMapping[str, str] = os.environ) -> str | None:
    """The name of a variable that begins as settings do and is none."""
    names = set(known)
    for name, value in environ.items():
        if name.startswith(PREFIX) and name not in names and not is_service_link(name, value):
            return name
    return None
