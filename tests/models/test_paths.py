from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from models.paths import PathError, user_cache


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whom the machine doesn't know, as in a container with a random number; where the
    temporary directory is."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("variables", "meant"),
    [
        ({"XDG_CACHE_HOME": "/x"}, "/x/vgg19"),
        ({"XDG_CACHE_HOME": "~/x", "HOME": "/h"}, "/h/x/vgg19"),
        ({"XDG_CACHE_HOME": "x", "HOME": "/h"}, "/h/.cache/vgg19"),  # relative ones don't count
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/vgg19"),
        ({"HOME": "/h"}, "/h/.cache/vgg19"),
    ],
)
@pytest.mark.usefixtures("homeless")
def test_the_cache_is_where_xdg_says(
    variables: dict[str, str], meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert user_cache() == Path(meant)


def test_who_has_no_home_has_a_private_cache(homeless: Path) -> None:
    cache = user_cache()
    assert cache == homeless / f"vgg19-cache-{os.getuid()}"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert user_cache() == cache


def test_but_not_one_that_somebody_else_has_made(homeless: Path) -> None:
    (homeless / "theirs").mkdir()
    (homeless / f"vgg19-cache-{os.getuid()}").symlink_to(homeless / "theirs")
    with pytest.raises(PathError, match="somebody else's; set HOME or XDG_CACHE_HOME"):
        user_cache()
