"""What memory the service holds: when idle, after load, and after the model was changed.

    python -m benchmarks.serving.memory --seconds 15

For each precision a service of its own, one after another, of VGG-19 at 224 px.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.report import save
from benchmarks.serving.load import check_tools, closed_loop
from benchmarks.serving.v2 import Body
from benchmarks.serving.workload import OTHER, PLACE, USUAL, photographs, prepare
from benchmarks.usage import Tree
from models.bundle.manifest import MANIFEST_FILE, read_manifest
from models.bundle.writer import write_manifest
from testing.commands import vgg19
from testing.server import serve

_CONNECTIONS = 32
_LIMIT_S = 120.0
_REST_S, _FALLS = 3.0, 0.99
_OPENVINO = {"VGG19_CPU_ENGINE": "openvino"}
_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "float32": {},
    "bf16": {"VGG19_PRECISION": "bf16"},
    "int8": {"VGG19_PRECISION": "int8", **_OPENVINO},
    "int8 with a second run": {"VGG19_PRECISION": "int8", **_OPENVINO},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory.")
    parser.add_argument("--seconds", type=float, default=15, help="of load")
    seconds = parser.parse_args().seconds
    check_tools()
    served, images = prepare("real"), photographs()
    assert served.cascade_home is not None
    found = {}
    for name, settings in _SETTINGS.items():
        again = name == "int8 with a second run"
        bundle = served.cascade_home.with_name("bundle") if again else served.bundle
        found[name] = memory(bundle, images[USUAL], images[OTHER], seconds, settings)
        print(name, {when: round(mb) for when, mb in found[name].items()}, flush=True)
    save("memory", {"memory_mb": found})
    print(json.dumps(found, indent=2))


def memory(
    bundle: Path, image: bytes, other: bytes, seconds: float, settings: Mapping[str, str]
) -> dict[str, float]:
    """Resident MB of all processes of the service, what they share counted once.

    Args:
        other: what one request in ten sends instead of `image`. seconds: of load, twice.
    """
    found = {}
    also = Body(other, "image/jpeg")
    with _two_versions(bundle) as home, serve(home, home / "log", **settings) as server:
        tree = Tree(server.process.pid)
        found["started"] = tree.pss_bytes() / 1e6
        url = f"{server.url}/classify"
        load = (url, image, "image/jpeg", _CONNECTIONS, seconds, None, also)
        closed_loop(*load)
        found["after_load"] = _at_rest(tree)
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
        found["after_swap"] = _at_rest(tree)
        closed_loop(*load)
        found["after_swap_and_load"] = _at_rest(tree)
    return found


def _at_rest(tree: Tree) -> float:
    """Resident MB when it falls no longer: the old model is freed beside everything else."""
    tree.settle()
    found = tree.pss_bytes() / 1e6
    while True:
        time.sleep(_REST_S)
        before, found = found, tree.pss_bytes() / 1e6
        if found > _FALLS * before:
            return found


def _loaded(url: str) -> list[str]:
    versions: list[str] = httpx.get(f"{url}/model", timeout=60).json()["loaded_versions"]
    return versions


@contextmanager
def _two_versions(source: Path) -> Iterator[Path]:
    """A home with two versions of a bundle, of which the first is in production."""
    place = PLACE.resolve() / "memory"
    shutil.rmtree(place, ignore_errors=True)
    home = place / "bentoml"
    try:
        for number in range(2):
            bundle = place / f"bundle{number}"
            without = shutil.ignore_patterns(MANIFEST_FILE)
            shutil.copytree(source, bundle, ignore=without, copy_function=os.link)
            provenance = read_manifest(source).provenance
            created_at = f"2026-01-0{number + 1}T00:00:00+00:00"
            write_manifest(bundle, provenance.model_copy(update={"created_at": created_at}))
            vgg19(home, "register", str(bundle))
            if number == 0:
                vgg19(home, "promote", "latest")
        yield home
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
