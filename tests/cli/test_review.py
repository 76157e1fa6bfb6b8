from __future__ import annotations

import itertools
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
from models.errors import StoreError
from models.monitoring.shadow_rule import ShadowRule
from models.registry import shadowing, store
from review.journal import Journal
from testing.bundles import write_tiny_bundle
from testing.images import write_image_folder
from testing.ports import free_port
from training.loop.config_file import load_config, write_config
from training.loop.preflight import check_config
from training.probe import head_start

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


def test_a_key_of_a_file_is_asked_for_and_not_printed(
    served: list[Any], run_main: Vgg19, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("key").write_text("50%#sesame\n")
    port = str(free_port())
    assert run_main("review", "--folder", "new", *OPTIONS, "--port", port, "--key-file", "key") == 0
    said = capsys.readouterr()
    assert f"at http://127.0.0.1:{port}; end" in said.out
    assert "sesame" not in said.out + said.err
    ((_, client, overview),) = served
    assert overview.status_code == 401
    headers = {"authorization": "Bearer 50%#sesame"}
    assert client.get("/api/queue?which=others", headers=headers).status_code == 400


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
        (("--folder", "new", "--redeploy", "nowhere"), "--redeploy nowhere is no file; 'vgg19"),
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


def test_a_challenger_is_trained_as_the_review_reads_it(tmp_path: Path) -> None:
    """Also where the data name their columns, and their run trained something else."""
    file = tmp_path / "run.yaml"
    file.write_text(
        "data: flowers.csv\nlabel_column: species\nimage_column: file\nsplit_column: part\n"
        "strategy: gradual\nunfreeze_epochs: [2, 3]\nunfreeze: ['features.3?']\n"
        "learning_rate: 0.001\n"
    )
    values = {"weights": "none", "image_size": 32, "data": "flowers"}
    commands = challenger_commands(tmp_path, file, values)
    train = next(commands)
    assert train[1:3] == ["train", "--config"]
    config = load_config(Path(train[3]), {})
    check_config(config)
    assert config.data == tmp_path / "labels.csv"
    assert (config.label_column, config.image_column, config.split_column) == (
        "label", None, "split",
    )  # fmt: skip
    assert (config.strategy, config.unfreeze, config.epochs) == ("head", (), 1)
    assert (config.weights, config.image_size, config.learning_rate) == ("none", 32, 0.001)
    assert next(commands)[1:] == ["export", str(config.output)]
    assert next(commands)[1:] == ["register", str(config.output)]


@pytest.mark.parametrize(
    "asked", ["strategy: full", "class_weights: balanced", "balanced_sampling: true", "mixup: 0.2"]
)
def test_a_challenger_begins_with_the_fit_that_the_page_has_shown(
    tmp_path: Path, asked: str
) -> None:
    """Whatever kept the head of the run that it is made from random."""
    run = tmp_path / "run.yaml"
    write_config(load_config(None, {"data": "x", "output": "y", "weights": "none"}), run)
    text = run.read_text().replace("strategy: fc", "strategy: full")
    name = asked.partition(":")[0]
    kept = [line for line in text.splitlines() if not line.startswith((f"{name}:", "head_init:"))]
    run.write_text("\n".join([*kept, asked, "head_init: random"]) + "\n")
    train = next(challenger_commands(tmp_path, run, {}))
    config = load_config(Path(train[3]), {})
    check_config(config)
    assert config.head_init == "ridge"
    assert head_start._reason_against(config) is None


@pytest.mark.parametrize("has_production", [False, True])
def test_a_challenger_goes_into_the_shadow_of_what_is_in_production(
    tmp_path: Path, store_home: Path, has_production: bool
) -> None:
    if has_production:
        production = write_tiny_bundle(tmp_path / "old", created_at="2026-01-01T00:00:00+00:00")
        store.promote(store.register(production))
    commands = challenger_commands(tmp_path, None, {"weights": "none"})
    train, *_ = itertools.islice(commands, 3)
    bundle = write_tiny_bundle(load_config(Path(train[3]), {}).output / "bundle")
    version = store.register(bundle).rpartition(":")[2]
    shadow = [command[1:] for command in commands]
    assert shadow == ([["shadow", version]] if has_production else [])


def test_a_challenger_is_refused_before_its_training_where_another_is_tried(
    tmp_path: Path, store_home: Path
) -> None:
    old, other = (
        store.register(
            write_tiny_bundle(tmp_path / when, created_at=f"{when}-01-01T00:00:00+00:00")
        )
        for when in ("2025", "2026")
    )
    store.promote(old)
    shadowing.start_shadow(other, ShadowRule())
    with pytest.raises(StoreError, match="a shadow of .* runs already; end it with"):
        next(iter(challenger_commands(tmp_path, None, {"weights": "none"})))
    assert not list(tmp_path.glob("challenger-*"))
