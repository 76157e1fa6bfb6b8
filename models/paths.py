"""Paths as people write them: with ~, relative to the directory where the command was typed, or a
URL. Imports nothing large, since every command begins here."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from models.errors import UserError

_LOCAL_URL = re.compile(r"(?P<scheme>file|local):(//(?=[^/]|$))?(?P<path>.*)", re.DOTALL)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class PathError(UserError):
    """A place that can't be used as it is."""


def absolute_path(path: str) -> str:
    """Of a path relative to here; ~ is the home directory."""
    return str(Path(expand_home(path)).absolute())


def absolute_url(url: str) -> str:
    """Of a path, or a URL that fsspec takes for one: `file:captured`, `file://captured`,
    `local://captured`. Others (s3://...) stay as they are, also chains of them (`a::b`)."""
    local = _LOCAL_URL.fullmatch(url)
    if local is not None and "::" not in url:
        return f"{local['scheme']}://{absolute_path(local['path'] or '.')}"
    return url if _SCHEME.match(url) or "::" in url else absolute_path(url)


def expand_home(path: str) -> str:
    """`~` and `~user` as the shell reads them; unchanged where nobody has such a home."""
    return os.path.expanduser(path)  # noqa: PTH111  # Path's raises, and drops a slash of URLs


def user_cache() -> Path:
    """`$XDG_CACHE_HOME/vgg19`, by default `~/.cache/vgg19`.

    A user without a home (a container's, often) gets a directory below the temporary one.

    Raises:
        PathError: that directory is somebody else's.
    """
    # By the XDG convention a relative one doesn't count.
    base = expand_home(os.environ.get("XDG_CACHE_HOME", ""))
    if not Path(base).is_absolute():
        base = expand_home("~/.cache")
    return Path(base) / "vgg19" if Path(base).is_absolute() else _homeless_cache()


def _homeless_cache() -> Path:
    user = os.getuid()
    cache = Path(tempfile.gettempdir()) / f"vgg19-cache-{user}"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    if cache.is_symlink() or cache.stat().st_uid != user:
        raise PathError(
            f"this user has no home directory, and {cache} is somebody else's; set HOME or "
            "XDG_CACHE_HOME"
        )
    return cache
