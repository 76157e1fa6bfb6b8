"""From a client's images to a challenger in production's shadow, by way of people's labels.

With VGG-19's layers, a sixteenth as wide: the bundle has all that a real one has, distances too.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from testing import patient
from testing.ports import free_port
from testing.server import Server, serve
from testing.waiting import wait_until
from tests.thin_command import write_command

CLASSES = (0, 1, 4)
BASE, SENT, LABELLED = 150, 60, 20
USER, ADMIN = "user", "admin"
HEADERS = {"x-review": "1"}

Truth = dict[str, str]  # SHA-256 of an image -> its label


class Place:
    """A folder with digits, in which the command runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.command = write_command(path / "vgg19")
        self.home = path / "bentoml"
        (self.home / "models").mkdir(parents=True)
        self.environment = os.environ | {
            "BENTOML_HOME": str(self.home), "BENTOML_DO_NOT_TRACK": "True", "COLUMNS": "160",
        }  # fmt: skip
        self.truth: Truth = {}
        digits = load_digits()
        rows = np.flatnonzero(np.isin(digits.target, CLASSES))[: BASE + SENT]
        for number, row in enumerate(rows.tolist()):
            label = str(digits.target[row])
            name = f"{number:03}.png"
            file = path / (f"base/{label}/{name}" if number < BASE else f"sent/{name}")
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.round(digits.images[row] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(file)
            self.truth[hashlib.sha256(file.read_bytes()).hexdigest()] = label

    def run(self, *arguments: str) -> str:
        result = subprocess.run(
            [self.command, *arguments],
            cwd=self.path, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout

    @contextmanager
    def review(self, *arguments: str) -> Iterator[patient.Client]:
        """`vgg19 review`, and what its page asks with."""
        port, log = free_port(), self.path / "review.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [self.command, "review", *arguments, "--port", str(port)],
                cwd=self.path, env=self.environment, stdout=output, stderr=output,
            )  # fmt: skip

        def is_there() -> bool:
            assert process.poll() is None, log.read_text()
            return "the page is at" in log.read_text()

        url = f"http://127.0.0.1:{port}/"
        try:
            wait_until(is_there)
            with patient.client(base_url=url, headers=HEADERS) as page:
                wait_until(lambda: answers(page))
                yield page
        finally:
            process.terminate()
            process.wait()


def answers(page: patient.Client) -> bool:
    try:
        return page.get("api/overview").is_success
    except httpx.TransportError:
        return False


def overview(page: patient.Client) -> dict[str, Any]:
    found: dict[str, Any] = page.get("api/overview").raise_for_status().json()
    return found


def label(page: patient.Client, count: int, truth: Truth) -> None:
    """As the page does: each is on the disk before the next is asked for."""
    for _ in range(count):
        card = page.get("api/queue?tab=1&count=8").raise_for_status().json()["cards"][0]
        image = card["image"]
        decision = {
            "image": image, "kind": "label", "label": truth[image], "who": "Ann",
            "base": card["standing"]["revision"],
        }  # fmt: skip
        page.post("api/decisions", json={"decisions": [decision]}).raise_for_status()


def check_heat_map(page: patient.Client) -> None:
    """Something speaks for one of the labels."""
    card = page.get("api/queue?tab=1&which=new&count=1").json()["cards"][0]
    address = f"heat/{card['image']}"
    shown = [page.get(address, params={"label": str(one)}) for one in CLASSES]
    assert {one.status_code for one in shown} <= {200, 409}, [one.text for one in shown]
    assert "image/png" in {one.headers["content-type"] for one in shown}
    other = page.get(address, params={"label": "a zebra"})
    assert other.status_code == 409
    assert "a zebra" in other.json()["detail"]


def send(server: Server, place: Place) -> None:
    headers = {"authorization": f"Bearer {USER}", "content-type": "image/png"}
    with patient.client(headers=headers) as client:
        for file in sorted((place.path / "sent").iterdir()):
            reply = client.post(f"{server.url}/classify", content=file.read_bytes())
            assert reply.json()["images"][0]["distance"] > 0
    wait_until(lambda: len([*(place.path / "captured").glob("*.json")]) == SENT)


@pytest.mark.exhaustive
def test_from_a_client_s_image_to_a_shadow(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.run(
        "train", "--data", "base", "--output", "run", "--weights", "none", "--strategy", "head",
        "--image-size", "64", "--resize", "squash", "--augment", "none", "--epochs", "1",
        "--head-init", "random",
    )  # fmt: skip
    place.run("export", "run")
    place.run("register", "run")
    place.run("promote", "latest", "--force")
    settings = {
        "VGG19_API_KEYS": hashlib.sha256(USER.encode()).hexdigest(),
        "VGG19_ADMIN_KEY": hashlib.sha256(ADMIN.encode()).hexdigest(),
        "VGG19_CAPTURE": "all",
        "VGG19_CAPTURE_URL": str(tmp_path / "captured"),
        "VGG19_REVIEW": str(tmp_path / "reviews"),
        "VGG19_WATCH_INTERVAL_S": "1",
    }
    with serve(place.home, tmp_path / "log", **settings) as server:
        send(server, place)
        page = patient.client(base_url=f"{server.url}/review/", headers=HEADERS)
        assert page.get("api/overview", headers={"authorization": f"Bearer {USER}"}).is_error
        page.headers["authorization"] = f"Bearer {ADMIN}"
        wait_until(lambda: overview(page)["features"] == {"ready": SENT, "images": SENT})
        label(page, LABELLED, place.truth)
        wait_until(lambda: (overview(page)["fit"] or {}).get("labels") == LABELLED)
        assert overview(page)["fit"]["accuracy"] > 0.5
        check_heat_map(page)
        page.post("api/jobs", json={"job": "lay"}).raise_for_status()
        assert len((tmp_path / "captured/labels.csv").read_text().splitlines()) == LABELLED + 1

        # The same people's answers, where a challenger can be made.
        arguments = (
            "--config", "run/config.yaml", "--weights", "run/checkpoints/best.safetensors",
            "--capture", "captured", "--output", "reviews",
        )  # fmt: skip
        with place.review(*arguments) as local:
            before = overview(local)
            assert before["decided"] == LABELLED
            label(local, 10, place.truth)
            wait_until(lambda: overview(local)["fit"]["labels"] > before["fit"]["labels"])
            check_heat_map(local)
            local.post("api/jobs", json={"job": "challenger"}).raise_for_status()
            wait_until(lambda: overview(local)["jobs"]["last"]["state"] != "running")
            last = overview(local)["jobs"]["last"]
        assert last["state"] == "done", last
        assert (
            "the head starts with a ridge regression" in (tmp_path / "reviews/jobs.log").read_text()
        )
        wait_until(lambda: "answers in production's shadow" in server.log.read_text())
        page.close()
