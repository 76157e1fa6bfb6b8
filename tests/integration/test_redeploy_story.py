"""The whole story on digits, against a real service under load on both transports.

The learner is `tests.redeploy_stub`'s; examples/redeploy.py tells the same with VGG-19 itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from testing import patient
from testing.commands import run_command
from testing.server import ROOT, Server, serve
from testing.waiting import HANG_S, wait_until
from tests.training.redeploy.conftest import GATE, Place

PNG = {"Content-Type": "image/png"}
Seen = Counter[tuple[int, str]]


@contextmanager
def load(server: Server, image: Path, stop: Path) -> Iterator[dict[str, Counter[str]]]:
    """Clients that ask all the while; at the end, what they got: by version, or by error."""
    command = [sys.executable, "-m", "tests.integration.triton_client"]
    arguments = [f"127.0.0.1:{server.grpc_port}", "until", str(image), str(stop)]
    over_grpc = subprocess.Popen(command + arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    done = threading.Event()
    content = image.read_bytes()

    def ask() -> Counter[str]:
        seen: Counter[str] = Counter()
        with patient.client() as client:
            while not done.is_set():
                reply = client.post(f"{server.url}/classify", content=content, headers=PNG)
                ok = reply.status_code == httpx.codes.OK
                seen[reply.json()["model_version"] if ok else reply.text] += 1
                time.sleep(0.005)
        return seen

    seen: dict[str, Counter[str]] = {}
    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(ask) for _ in range(2)]
        try:
            yield seen
        finally:
            done.set()
            stop.touch()
    seen["http"] = sum((client.result() for client in clients), Counter[str]())
    seen["grpc"] = Counter(json.loads(over_grpc.communicate(timeout=HANG_S)[0]))


@pytest.mark.exhaustive
def test_better_then_poisoned_then_back_without_a_failed_request(tmp_path: Path) -> None:
    home = tmp_path / "bentoml"
    (home / "models").mkdir(parents=True)
    place = Place(tmp_path, home)
    first = place.run_command()
    assert first.returncode == 0, first.stderr
    with serve(home, tmp_path / "log", VGG19_WATCH_INTERVAL_S="1") as server:
        services = [{"http": server.url, "grpc": f"127.0.0.1:{server.grpc_port}"}]
        place.configure(services=services, gate=GATE)
        old = served(server)
        image = next((tmp_path / "base").rglob("*.png"))
        with load(server, image, tmp_path / "stop") as seen:
            place.add(151, 900)
            better = place.run_command()
            assert better.returncode == 0, better.stderr
            new = served(server)
            assert new != old
            assert f"{server.url} serves vgg19:{new} as it should" in better.stdout

            place.add(900, 1500, poisoned=True)
            poisoned = place.run_command()
            assert poisoned.returncode == 3, poisoned.stdout
            assert served(server) == new

            back = run_command("vgg19", "rollback", cwd=tmp_path, home=home)
            assert f"production is vgg19:{old} (it was vgg19:{new})" in back.stdout
            wait_until(lambda: served(server) == old)
        for transport in ("http", "grpc"):
            assert set(seen[transport]) == {old, new}, seen
    history = run_command("vgg19", "history", "--json", cwd=tmp_path, home=home)
    versions = [json.loads(line)["version"] for line in history.stdout.splitlines()]
    assert versions == [old, new, old]


@pytest.mark.exhaustive
def test_a_service_with_another_store_is_found_out(tmp_path: Path, tiny_home: Path) -> None:
    """Exit 4, and production is what it was."""
    home = tmp_path / "bentoml"
    (home / "models").mkdir(parents=True)
    place = Place(tmp_path, home)
    assert place.run_command().returncode == 0
    before = production(home)
    place.add(151, 900)
    with serve(tiny_home, tmp_path / "log") as server:
        place.configure(services=[{"http": server.url}], service_timeout_s=1)
        result = place.run_command()
    assert result.returncode == 4, result.stdout
    assert "does it use this store" in result.stdout
    assert production(home) == before


def served(server: Server) -> str:
    return str(patient.get(f"{server.url}/model").json()["version"])


def production(home: Path) -> str:
    return (home / "models" / "vgg19" / ".production").read_text().split()[0]
