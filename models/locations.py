"""Places that a user names by a directory or a URL, through fsspec: the same promises for object
stores as for files.

In an object store a directory without files doesn't exist, a listing may hold an entry for the
directory itself, and fsspec keeps listings from before others wrote. Here an empty place is empty,
and what is listed is what is there now.
"""

from __future__ import annotations

import re
from typing import Any

import fsspec

from models.errors import UserError
from models.extras import install_command

_USER = re.compile(r"(?<=://)[^/?#\s]*@")
_QUERY = re.compile(r"(?<=[?&;])[^=&#]*=[^&#]*")
_EXTRAS = {"s3": "s3", "s3a": "s3"}


class LocationError(UserError):
    """The place can't be used; the message says why, and names no credentials."""


def open_location(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, which keeps no listings, and the path in it.

    Raises:
        LocationError: no such protocol, or its package isn't installed.
    """
    try:
        # One for each call: fsspec would share it with who wants listings kept.
        files, root = fsspec.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        extra = _EXTRAS.get(url.partition("://")[0])
        advice = f"; install it with {install_command(extra)}" if extra else ""
        raise LocationError(f"{reason(error)}{advice}") from None
    except (OSError, ValueError) as error:
        raise LocationError(reason(error)) from None
    return files, str(root).rstrip("/")


def list_files(files: Any, root: str) -> list[tuple[str, int]]:
    """(name, bytes) of the files right below a place, sorted; none where nothing is there yet."""
    files.invalidate_cache()  # of file systems that don't know `use_listings_cache`
    try:
        entries = files.ls(root, detail=True)
    except FileNotFoundError:
        return []
    return sorted(
        (name, int(entry.get("size") or 0))
        for entry in entries
        if entry.get("type") != "directory"
        # An object store's mark of an empty directory has its name, or none.
        and (name := str(entry["name"]).rpartition("/")[2])
        and str(entry["name"]).rstrip("/") != root.rstrip("/")
    )


def without_credentials(url: str) -> str:
    """A URL to show: neither a user with a password nor the values of a query."""
    return _QUERY.sub("", _USER.sub("", url))


def reason(error: Exception) -> str:
    """What a file system's exception says, in one line; each has exceptions of its own. URLs in it
    are without users and passwords."""
    return _USER.sub("", " ".join(str(error).split())) or type(error).__name__
