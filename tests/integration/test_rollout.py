"""Shadows and canaries beside real services: one of two workers on both transports, and two."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.serving.load import infer_request
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from testing import patient
from testing.commands import run_command, vgg19
from testing.images import coloured_pixels, encode
from testing.server import Server, register_version, serve
from testing.waiting import HANG_S, wait_until

pytestmark = pytest.mark.exhaustive  # what it is made of is tested in tests/serving/rollout

PNG = {"Content-Type": "image/png"}


def ask_http(server: Server, seed: int, user: str = "") -> str:
    reply = patient.post(
        f"{server.url}/classify",
        content=encode(coloured_pixels(seed)),
        headers=PNG | {"X-User": user},
    )
    assert reply.status_code == 200
    return str(reply.json()["model_version"])


def ask_grpc(stub: GRPCInferenceServiceStub, seed: int, user: str = "") -> str:
    request = infer_request(encode(coloured_pixels(seed)))
    answer = stub.ModelInfer(request, timeout=HANG_S, metadata=[("x-user", user)])
    return str(answer.model_version)


def compared(server: Server) -> float:
    """Images that the shadow has answered, in all workers."""
    text = patient.get(f"{server.url}/metrics").text
    counts = re.findall(r"^vgg19_shadow_images_total{.*} (\S+)$", text, re.MULTILINE)
    return sum(map(float, counts))


def test_from_the_shadow_through_a_canary(tmp_path: Path) -> None:
    old, new = (register_version(tmp_path, day) for day in (1, 2))
    home = tmp_path / "home"
    vgg19(home, "promote", old)
    settings = {"VGG19_WATCH_INTERVAL_S": "1", "VGG19_WORKERS": "2"}
    with (
        serve(home, home / "log", **settings) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        client = GRPCInferenceServiceStub(channel)
        vgg19(home, "shadow", new, "--min-images", "20", "--min-hours", "0",
              "--max-latency-ratio", "1000")  # fmt: skip

        def shown() -> dict[str, Any]:
            status = run_command("vgg19", "shadow", "--json", cwd=home, home=home)
            return dict(json.loads(status.stdout))

        def runs_in_both() -> bool:
            return [worker["state"] for worker in shown()["workers"]] == ["running"] * 2

        wait_until(runs_in_both)
        # One after another: what finds the shadow computing stops it for the next 1,000 requests.
        for number in range(24):
            answer = ask_grpc(client, number) if number % 2 else ask_http(server, number)
            assert answer == old.split(":")[1]
            wait_until(lambda number=number: compared(server) == number + 1)  # type: ignore[misc]
        wait_until(lambda: shown()["outcome"] == "passed")
        assert shown()["agreement"] == 1

        vgg19(home, "canary", new, "--steps", "50,100", "--wait-hours", "0",
              "--min-requests", "40", "--header", "X-User")  # fmt: skip
        users = [f"user {number}" for number in range(20)]  # all on one side: once in 500,000
        seen: dict[str, Counter[str]] = {user: Counter() for user in users}

        def promoted() -> bool:
            for seed, user in enumerate(users):
                seen[user][ask_http(server, seed, user)] += 1
                seen[user][ask_grpc(client, seed, user)] += 1
            return run_command("vgg19", "canary", "--json", cwd=home, home=home).stdout == "{}\n"

        wait_until(promoted)
        assert sum(new.split(":")[1] in versions for versions in seen.values()) > 0
        wait_until(lambda: ask_http(server, 0) == new.split(":")[1])
    history = vgg19(home, "history", "--rollouts", "--json").splitlines()
    whats = [json.loads(line)["what"] for line in history]
    assert whats == ["promoted", "begun", "passed", "begun"]
    assert "Traceback" not in (home / "log").read_text()  # what a rollout fails at is only logged


def test_replicas_share_what_they_see_and_whom_they_answer(tmp_path: Path) -> None:
    """Two services that have nothing in common but the store."""
    old, new = (register_version(tmp_path, day) for day in (1, 2))
    home = tmp_path / "home"
    vgg19(home, "promote", old)
    # Of one BentoML home, BentoML would have them share a directory of metrics.
    other = tmp_path / "other"
    other.mkdir()
    settings = {"VGG19_WATCH_INTERVAL_S": "1", "VGG19_STORE": str(home / "models")}
    with (
        serve(home, home / "log", **settings) as first,
        serve(other, other / "log", **settings) as second,
    ):
        replicas = (first, second)
        vgg19(home, "shadow", new, "--min-images", "12", "--min-hours", "0",
              "--max-latency-ratio", "1000")  # fmt: skip

        def shown() -> dict[str, Any]:
            status = run_command("vgg19", "shadow", "--json", cwd=home, home=home)
            return dict(json.loads(status.stdout))

        wait_until(lambda: [w["state"] for w in shown()["workers"]] == ["running"] * 2)
        for number in range(6):
            for replica in replicas:
                ask_http(replica, number)
                wait_until(lambda replica=replica, n=number: compared(replica) == n + 1)  # type: ignore[misc]
        wait_until(lambda: shown()["outcome"] == "passed")
        assert shown()["seen"]["images"] == 12

        vgg19(home, "canary", new, "--percent", "50", "--header", "X-User")
        users = [f"user {number}" for number in range(20)]  # all on one side: once in 500,000

        def sides(replica: Server) -> list[str]:
            return [ask_http(replica, seed, user) for seed, user in enumerate(users)]

        both = {one.split(":")[1] for one in (old, new)}
        for replica in replicas:
            wait_until(lambda replica=replica: set(sides(replica)) == both)  # type: ignore[misc]
        assert sides(first) == sides(second)
        vgg19(home, "canary", "--abort")
        for replica in replicas:
            wait_until(lambda replica=replica: set(sides(replica)) == {old.split(":")[1]})  # type: ignore[misc]
