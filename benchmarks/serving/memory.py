"""What memory the service holds: when idle, after load, and after the model was changed."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.serving.load import closed_loop
from benchmarks.serving.workload import PLACE, ServedBundle
from benchmarks.usage import Tree
from models.bundle.manifest import read_manifest
from models.bundle.writer import write_manifest
from testing.commands import vgg19
from testing.server import serve

_CONNECTIONS, _SECONDS = 32, 15.0
_LIMIT_S = 120.0


def memory(served: ServedBundle, image: bytes) -> dict[str, float]:
    """Resident MB of all processes of the service, what they share counted once."""
    found = {}
    with _two_versions(served) as home, serve(home, home / "log") as server:
        tree = Tree(server.process.pid)
        found["started"] = tree.pss_bytes() / 1e6
        load = (f"{server.url}/classify", image, "image/jpeg", _CONNECTIONS, _SECONDS)
        closed_loop(*load)
        tree.settle()
        found["after_load"] = tree.pss_bytes() / 1e6
        before = _loaded(server.url)
        vgg19(home, "promote", "latest")
        deadline = time.monotonic() + _LIMIT_S
        while _loaded(server.url) == before or len(_loaded(server.url)) > 1:
            found["largest_in_swap"] = max(
                found.get("largest_in_swap", 0.0), tree.pss_bytes() / 1e6
            )
            if time.monotonic() > deadline:
                sys.exit("the service doesn't change its model")
            time.sleep(0.05)
        tree.settle()
        found["after_swap"] = tree.pss_bytes() / 1e6
        closed_loop(*load)
        tree.settle()
        found["after_swap_and_load"] = tree.pss_bytes() / 1e6
    return found


def _loaded(url: str) -> list[str]:
    versions: list[str] = httpx.get(f"{url}/model", timeout=60).json()["loaded_versions"]
    return versions


@contextmanager
def _two_versions(served: ServedBundle) -> Iterator[Path]:
    """A home with two versions of the model, of which the first is in production."""
    place = PLACE.resolve() / "start"
    shutil.rmtree(place, ignore_errors=True)
    home = place / "bentoml"
    try:
        for number in range(2):
            bundle = place / f"bundle{number}"
            shutil.copytree(served.bundle, bundle)
            provenance = read_manifest(bundle).provenance
            created_at = f"2026-01-0{number + 1}T00:00:00+00:00"
            write_manifest(bundle, provenance.model_copy(update={"created_at": created_at}))
            vgg19(home, "register", str(bundle))
            if number == 0:
                vgg19(home, "promote", "latest")
        yield home
    finally:
        shutil.rmtree(place, ignore_errors=True)
