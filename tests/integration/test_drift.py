"""Drift as a real service with two workers watches it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from testing import patient
from testing.bundles import write_tiny_bundle
from testing.commands import vgg19
from testing.images import coloured_pixels, encode
from testing.reference import add_reference
from testing.server import Server, serve
from testing.waiting import wait_until

pytestmark = pytest.mark.exhaustive


def home_with_a_reference(tmp_path: Path) -> Path:
    known = tmp_path / "known"
    known.mkdir()
    for seed in range(60):
        (known / f"{seed}.png").write_bytes(encode(coloured_pixels(seed)))
    bundle = write_tiny_bundle(tmp_path / "bundle")
    add_reference(bundle, sorted(known.iterdir()))
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    vgg19(home, "register", str(bundle))
    vgg19(home, "promote", "latest")
    return home


def ask(server: Server, first: int, count: int, *, bright: bool = False) -> None:
    """Each on a connection of its own, so that both workers get some."""
    for seed in range(first, first + count):
        pixels = coloured_pixels(seed)
        image = encode(pixels // 4 + 180 if bright else pixels)
        patient.post(
            f"{server.url}/classify", content=image, headers={"content-type": "image/png"}
        ).raise_for_status()


def drift(server: Server, images: int) -> dict[str, Any]:
    """Once so many images are counted, whichever worker is asked."""
    found: dict[str, Any] = {}

    def is_there() -> bool:
        found.update(patient.get(f"{server.url}/drift").json()["drift"] or {})
        return bool(found) and found["images"] == images

    wait_until(is_there)
    return found


def test_two_workers_watch_together_and_leave_nothing(tmp_path: Path) -> None:
    home = home_with_a_reference(tmp_path)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    assert os.environ.get("TMPDIR") != str(temporary) != tempfile.gettempdir()
    settings = {"VGG19_WORKERS": "2", "TMPDIR": str(temporary)}
    with serve(home, tmp_path / "log", **settings) as server:
        ask(server, 100, 60)
        assert drift(server, 60)["alarm"] is None
        ask(server, 200, 60, bright=True)
        alarm = drift(server, 120)["alarm"]
        assert "brightness" in alarm["features"]
        shown = {
            'vgg19_drift_alarm{feature="brightness"} 1.0',
            'vgg19_drift_alarm{feature="format"} 0.0',
            'vgg19_drift_images{window="day"} 120.0',
        }
        # Once the other worker has looked, too.
        wait_until(lambda: shown <= set(patient.get(f"{server.url}/metrics").text.splitlines()))
        assert len(list(temporary.glob("vgg19-drift-*"))) == 1
        assert (tmp_path / "log").read_text().count("drift: brightness of the images") == 1
    assert not list(temporary.glob("vgg19-drift-*"))
