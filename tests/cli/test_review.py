from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from cli.review import challenger_commands
from review.journal import Journal
from testing.images import write_image_folder
from testing.ports import free_port

pytestmark = pytest.mark.usefixtures("thin_network")

OPTIONS = ("--weights", "none", "--image-size", "32", "--mixed-precision", "no")
Vgg19 = Callable[..., int]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations of the servers that would have run, in a folder with images."""
    monkeypatch.chdir(tmp_path)
    write_image_folder(tmp_path / "data/train", {"blue": 4, "red": 4})
    write_image_folder(tmp_path / "data/val", {"blue": 1, "red": 1}, first_seed=50)
    write_image_folder(tmp_path / "new", {"green": 3}, first_seed=100)
    configs: list[Any] = []

    def run(server: uvicorn.Server) -> None:
        host = f"{server.config.host}:{server.config.port}"
        client = TestClient(server.config.app, headers={"host": host, "x-review": "1"})
        configs.append((server.config, client, client.get("/api/overview")))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return configs


def test_it_serves_the_page_on_this_machine_alone(
    served: list[Any], run_main: Vgg19, capsys: pytest.CaptureFixture[str]
) -> None:
    port = str(free_port())
    arguments = ("--data", "data", "--folder", "new", "--class", "green", "--port", port)
    assert run_main("review", *arguments, *OPTIONS, "--who", "Ann") == 0
    assert f"the page is at http://127.0.0.1:{port}; end with Ctrl-C" in capsys.readouterr().out
    ((config, _, overview),) = served
    assert config.host == "127.0.0.1"
    found = overview.json()
    assert [one["label"] for one in found["classes"]] == ["blue", "green", "red"]
    assert (found["images"], found["who"], found["waiting"]["new"]) == (11, "Ann", 3)
    assert found["jobs"]["names"] == ["challenger"]


def test_it_leaves_others_handlers_alone(served: list[Any], run_main: Vgg19) -> None:
    """uvicorn's own logging closes all that there are; absl's closes its stream with it."""
    closed = []

    class Handler(logging.NullHandler):
        def close(self) -> None:
            closed.append(self)
            super().close()

    handler = Handler()
    assert run_main("review", "--folder", "new", *OPTIONS, "--port", str(free_port())) == 0
    assert served
    assert handler not in closed


def test_beyond_this_machine_it_asks_for_a_key(
    served: list[Any], run_main: Vgg19, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--folder", "new", *OPTIONS, "--port", str(free_port()))
    assert run_main("review", *arguments, "--host", "0.0.0.0", "--allow-host", "box") == 0
    ((_, client, overview),) = served
    assert overview.status_code == 401
    key = re.search(r"/#(\S+); end", capsys.readouterr().out)
    assert key is not None
    headers = {"authorization": f"Bearer {key[1]}", "host": "box"}
    reply = client.get("/api/queue?which=others", headers=headers)
    assert reply.status_code == 400  # asked in earnest


def test_label_studios_annotations_are_taken(served: list[Any], run_main: Vgg19) -> None:
    result = [{"type": "choices", "value": {"choices": ["green"]}}]
    task = {"data": {"image": "/data/upload/1/0123abcd-0100.png"}}
    Path("export.json").write_text(json.dumps([task | {"annotations": [{"result": result}]}]))
    arguments = ("--folder", "new", "--import", "export.json", "--output", "out", "--who", "Eve")
    assert run_main("review", *arguments, *OPTIONS, "--port", str(free_port())) == 0
    journal = Journal(Path("out/decisions.jsonl"))
    assert [journal.standing(image).votes[0].who for image in journal.images()] == ["Eve"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give --data, --folder or --capture"),
        (("--folder", "nowhere"), "nowhere is not a folder"),
        (("--key-file", "nowhere"), "--key-file nowhere can't be read"),
        (("--folder", "new", "--import", "nowhere"), "--import nowhere can't be read"),
    ],
)
def test_mistakes_are_one_line(
    served: list[Any],
    run_main: Vgg19,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    assert run_main("review", *arguments, *OPTIONS, "--port", str(free_port())) == 1
    assert words in capsys.readouterr().err
    assert not served


def test_a_port_that_is_taken_is_told_before_the_work(
    served: list[Any], run_main: Vgg19, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run_main("review", "--folder", "new", *OPTIONS, "--port", port) == 1
    assert f"can't listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_a_challenger_is_trained_as_the_review_reads_it() -> None:
    values = {"weights": "none", "image_size": 32, "data": "flowers"}
    train, export, register = challenger_commands(Path("out"), Path("run.yaml"), values)
    run = train[train.index("--output") + 1]
    assert train[1:5] == ["train", "--config", "run.yaml", "--weights"]
    assert train[train.index("--data") + 1] == "out/labels.csv"
    assert "flowers" not in train
    assert export[1:] == ["export", run]
    assert register[1:] == ["register", run]
