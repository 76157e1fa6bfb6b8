"""What a real service does beside requests goes on, whatever comes in its way."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from testing import patient
from testing.commands import vgg19
from testing.server import Server, register_version, serve
from testing.waiting import HANG_S, wait_until
from tests.models.registry.test_promotions import DAMAGED

_WATCH = "the watch over promotions"


def failures(server: Server) -> float:
    text = patient.get(f"{server.url}/metrics").text
    found = re.search(
        rf'^vgg19_background_failures_total{{work="{_WATCH}"}} (\S+)$', text, re.MULTILINE
    )
    return float(found[1]) if found else 0.0


def is_ready(server: Server) -> bool:
    return patient.get(f"{server.url}/readyz").status_code == httpx.codes.OK


def grpc_status(server: Server) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        status: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=HANG_S).status
        return status


@pytest.mark.exhaustive
def test_a_damaged_production_file_is_told_and_a_promotion_repairs_it(tmp_path: Path) -> None:
    """Invalid UTF-8, once, ended the watch for good, with /readyz 200 and no line of log."""
    first, second = register_version(tmp_path, 1), register_version(tmp_path, 2)
    home = tmp_path / "home"
    vgg19(home, "promote", first)
    settings = {"VGG19_WATCH_INTERVAL_S": "1", "VGG19_READY_WHILE_STALE": "false"}
    with serve(home, tmp_path / "log", **settings) as server:
        pointer = home / "models" / "vgg19" / ".production"
        for content in list(DAMAGED.values())[:3]:
            before = failures(server)
            pointer.write_bytes(content)
            wait_until(lambda before=before: failures(server) > before)  # type: ignore[misc]
        wait_until(lambda: not is_ready(server))
        wait_until(lambda: grpc_status(server) == health_pb2.HealthCheckResponse.NOT_SERVING)
        model = patient.get(f"{server.url}/model").json()
        assert f"vgg19:{model['version']}" == first  # it goes on serving
        listed = vgg19(home, "models")
        assert "is damaged" in listed
        assert second in listed
        vgg19(home, "promote", second)
        wait_until(lambda: is_ready(server))
        wait_until(lambda: grpc_status(server) == health_pb2.HealthCheckResponse.SERVING)
        model = patient.get(f"{server.url}/model").json()
        assert f"vgg19:{model['version']}" == second
    log = (tmp_path / "log").read_text()
    assert log.count("is damaged") == 1  # all three are damaged alike
    assert f"{_WATCH}: recovered after" in log
    assert "Traceback" not in log
