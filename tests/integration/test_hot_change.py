"""Another model is promoted while real clients ask on both transports the whole time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from testing import patient
from testing.images import coloured_pixels, encode
from testing.server import ROOT, Server, promote, register_version, serve
from testing.waiting import HANG_S, wait_until

PNG = {"Content-Type": "image/png"}
IMAGE = encode(coloured_pixels(1))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good versions, of which the first is production, and one whose golden samples lie."""
    place = tmp_path_factory.mktemp("hot")
    for day in (1, 2, 3):
        register_version(place, day, lies=day == 3)
    promote_day(place / "home", 1)
    return place / "home"


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serve(home, home / "server.log", VGG19_WATCH_INTERVAL_S="1") as server:
        yield server


def promote_day(home: Path, day: int) -> str:
    (version,) = (path.name for path in (home / "models" / "vgg19").glob(f"2026010{day}-*"))
    promote(home, f"vgg19:{version}")
    return version


def served(server: Server) -> dict[str, object]:
    reply: dict[str, object] = patient.get(f"{server.url}/model").json()
    return reply


def wait_for_version(server: Server, version: str) -> None:
    wait_until(lambda: served(server)["version"] == version)


def answers(server: Server, transport: str, version: str) -> int:
    """How many it has given, by its log."""
    lines = server.log.read_text().splitlines()
    told = f'"transport": "{transport}"', f'"model_version": "{version}"'
    return sum(all(words in line for words in told) for line in lines)


def test_not_one_request_fails_and_every_answer_names_its_version(
    home: Path, server: Server, tmp_path: Path
) -> None:
    done = threading.Event()
    (tmp_path / "image.png").write_bytes(IMAGE)
    over_grpc = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.triton_client", f"127.0.0.1:{server.grpc_port}",
         "until", str(tmp_path / "image.png"), str(tmp_path / "stop")],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def ask() -> Counter[tuple[int, str, str]]:
        seen: Counter[tuple[int, str, str]] = Counter()
        with patient.client() as client:
            while not done.is_set():
                reply = client.post(f"{server.url}/classify", content=IMAGE, headers=PNG)
                body = reply.json()
                label = body["images"][0]["predictions"][0]["label"]
                seen[reply.status_code, body["model_version"], label] += 1
        return seen

    def wait_for_answers(version: str) -> None:
        """Under way on both transports, that many more."""
        for transport, count in (("http", 100), ("grpc", 20)):
            enough = answers(server, transport, version) + count
            wait_until(lambda t=transport, n=enough: answers(server, t, version) >= n)  # type: ignore[misc]

    old = str(served(server)["version"])
    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask) for _ in range(8)]
        try:
            wait_for_answers(old)
            new = promote_day(home, 2)
            wait_for_version(server, new)
            wait_for_answers(new)
            promote_day(home, 1)
            wait_for_version(server, old)
            wait_for_answers(old)
        finally:
            done.set()
            (tmp_path / "stop").touch()
        seen = sum((client.result() for client in clients), Counter[tuple[int, str, str]]())
    versions = json.loads(over_grpc.communicate(timeout=HANG_S)[0])

    assert set(seen) == {(200, old, "green"), (200, new, "green")}
    assert set(versions) == {old, new}


def test_a_bad_model_leaves_the_old_one_and_is_told(home: Path, server: Server) -> None:
    old = served(server)["version"]
    bad = promote_day(home, 3)
    wait_until(lambda: served(server)["failed_load"])
    failed = served(server)["failed_load"]
    assert isinstance(failed, dict)
    assert failed["version"] == bad
    assert "differs from its golden samples" in failed["reason"]
    reply = patient.post(f"{server.url}/classify", content=IMAGE, headers=PNG)
    assert (reply.status_code, reply.json()["model_version"]) == (200, old)
    assert patient.get(f"{server.url}/readyz").status_code == 200
    good = promote_day(home, 2)  # and the way out is open
    wait_for_version(server, good)
    assert served(server)["failed_load"] is None


def test_an_idle_service_uses_next_to_no_cpu(server: Server) -> None:
    processes = [psutil.Process(child.pid) for child in server.children()]
    before = sum(sum(process.cpu_times()[:2]) for process in processes)
    time.sleep(3)
    after = sum(sum(process.cpu_times()[:2]) for process in processes)
    assert after - before < 0.3  # of 3 s: BentoML's own timers
