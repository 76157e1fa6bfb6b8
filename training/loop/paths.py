"""Paths in the configurations of training: what may be written there, and what it means.

A relative path means the directory where the command was typed, also in a configuration file. `~`
and `~user` are home directories. A run records all of its paths absolute.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from models.paths import absolute_url, expand_home

_HUGGING_FACE = "hf:"
# pathlib makes one slash of two, so one is enough here.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|.*::")
NAMED_WEIGHTS = ("imagenet", "none")
_NAMED_STARTS = ("pretrained", "champion")


def _local(value: object) -> object:
    """A path of this machine's file system; values of other types are pydantic's to refuse."""
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if not text.strip():
        raise ValueError("is empty, it must be a path")
    if "\0" in text:
        raise ValueError(f"is {text!r}, which holds a null character")
    if _URL.match(text):
        raise ValueError(f"is {text}, a URL; it must be a path on this machine: copy or mount it")
    path = expand_home(text)
    if path.startswith("~"):
        raise ValueError(
            f"is {text}, and there is no such home directory; write ./{text} if it is a name"
        )
    return path


def _data(value: object) -> object:
    return value if _is_hub_name(value) else _local(value)


def _weights(value: object) -> object:
    return value if value in NAMED_WEIGHTS else _local(value)


def _start(value: object) -> object:
    return value if value in _NAMED_STARTS else _local(value)


def _url_or_path(value: object) -> object:
    return absolute_url(value) if isinstance(value, str) and value.strip() else value


LocalPath = Annotated[Path, BeforeValidator(_local)]
# Or a data set of the Hugging Face hub, hf:NAME or hf:NAME@REVISION.
DataPath = Annotated[Path, BeforeValidator(_data)]
# Or imagenet, or none.
WeightsPath = Annotated[str, BeforeValidator(_weights)]
# Or pretrained, or champion.
StartPath = Annotated[str, BeforeValidator(_start)]
Location = Annotated[str, BeforeValidator(_url_or_path)]


def absolute_data(data: Path) -> Path:
    """As it has to be recorded; names of the hub stay what they are."""
    return data if _is_hub_name(data) else data.absolute()


def absolute_weights(weights: str) -> str:
    """As it has to be recorded."""
    return weights if weights in NAMED_WEIGHTS else str(Path(weights).absolute())


def _is_hub_name(value: object) -> bool:
    return str(value).startswith(_HUGGING_FACE)
