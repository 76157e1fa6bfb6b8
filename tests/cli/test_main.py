"""Mistakes on the command line: one line, an exit code, no traceback, nothing written."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from models import bentoml_adapter
from models.bundle.manifest import read_manifest
from models.bundle.writer import write_manifest
from models.files import json_text
from testing.bundles import write_tiny_bundle
from testing.commands import run_command
from testing.images import write_image_folder
from testing.ports import free_port
from testing.server import ROOT
from testing.waiting import HANG_S
from training.evaluate.metrics import classification_metrics
from training.redeploy.config import load_redeploy_config

COMMANDS = (
    "train",
    "find-lr",
    "probe",
    "check-data",
    "reproduce",
    "evaluate",
    "export",
    "register",
    "promote",
    "models",
    "serve",
    "classify",
    "sign",
    "verify",
)


Vgg19 = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def vgg19(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    run_main: Callable[..., int],
) -> Iterator[Vgg19]:
    """The command in this process: importing PyTorch anew would take seconds each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    bentoml_adapter.choose_store_directory(tmp_path / "bentoml" / "models")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = run_main(*arguments)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    yield run
    bentoml_adapter.choose_store_directory(None)


def vgg19_process(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("vgg19", *arguments, cwd=place, home=place / "bentoml")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(vgg19: Vgg19, command: str) -> None:
    result = vgg19(command, "--help")
    assert result.returncode == 0
    assert f"Example: vgg19 {command}" in result.stdout


def test_without_a_command_the_help_is_shown(vgg19: Vgg19) -> None:
    result = vgg19()
    assert result.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in result.stdout
    assert "─ Commands ─" not in result.stdout  # each has a heading of its own kind


def test_train_lists_its_flags_under_headings_data_first(vgg19: Vgg19) -> None:
    lines = vgg19("train", "--help").stdout.splitlines()
    order = ["Options", "--data", "--output", "--config", "Network and strategy", "--weights",
             "Loop and loss", "--epochs", "Augmentation", "--augment", "Cached features", "--views",
             "Accepted answers", "Reading and splitting the data", "--label-column",
             "Machine and records", "--seed"]  # fmt: skip
    places = [
        next(n for n, line in enumerate(lines) if line.startswith((f"│ {word} ", f"╭─ {word} ")))
        for word in order
    ]
    assert places == sorted(places)


def test_tables_are_whole_where_another_program_reads_them(
    vgg19: Vgg19, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    long = "a class with a long name " * 6 + "x"
    write_image_folder(tmp_path / "data", {"blue": 4, "red": 3})
    (tmp_path / "data" / "blue").rename(tmp_path / "data" / long)
    lines = vgg19("check-data", "data").stdout.splitlines()
    assert [line.strip() for line in lines[1:3]] == [f"{long}    4", f"red{' ' * 148}    3"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train", "data is missing; give --data"),
        ("train --data none", "data none does not exist"),
        ("train --data empty", "data directory empty holds no folders"),
        ("train --data one", "one class ('blue')"),
        ("train --data holes", "class 'red' in holes holds no image"),
        ("train --data texts", "10 of 10 files of class 'blue' are not images (100%"),
        (
            "train --data two --strategy head2",
            "strategy is 'head2', it should be 'auto', 'fc', 'full', 'head' or 'gradual'",
        ),
        ("train --data two --image-size 31", "image_size is 31"),
        ("train --data two --config typo.yaml", "unknown config key 'epcohs'"),
        ("train --data two --weights none.pth", "--weights none.pth: no such file"),
        ("train --data two --weights typo.yaml", "--weights typo.yaml: "),
        ("train --data two --output two", "output two exists already"),
        ("train --data two --epochs many", "--epochs"),
        ("train --dta two", "No such option: --dta"),
        ("evaluate none", "none is not a run"),
        ("export none", "none does not exist; make a run with 'vgg19 train'"),
        ("export two", "two is not a run: it has no metrics.json; make a run with 'vgg19 train'"),
        ("export broken", "broken/metrics.json is damaged"),
        ("register none", "none does not exist; make a bundle with 'vgg19 export RUN'"),
        ("register two", "two is not a bundle: it has no manifest.json; make a bundle with"),
        ("promote vgg19:1", "no model vgg19:1 in"),
        ("promote latest", "no model in"),
        ("classify http://127.0.0.1:1 typo.yaml", "no service answers at http://127.0.0.1:1"),
        ("classify nowhere typo.yaml", "no service answers at http://nowhere"),
        ("classify http://127.0.0.1:1 none.jpg", "'none.jpg' is neither a folder nor a file"),
        ("sign none --key none.pem", "no model vgg19:none in"),
        ("sign one --key none.pem", "the key none.pem can't be read: No such file"),
        ("verify one --key typo.yaml", "typo.yaml is not the public half of an ECDSA key"),
        ("train --data none --weights imagent", "did you mean 'imagenet'"),
        ("train --data none --unfreeze block5", "--unfreeze 'block5' names no layer"),
        ("train --data two --split-name x=y", "--split-name is 'x=y', it must be NAME=SPLIT"),
        ("find-lr --data none --lowest 1", "--lowest is 1 and --highest is 1"),
        ("find-lr --data none --output none/x.png", "it must be a .png file in a directory that"),
        ("check-data two --label-column x --split-name test", "--split-name is 'test'"),
        ("check-data odd", "odd holds split folders (train) and 'part 2', which is none"),
        ("evaluate none --label-column x", "options for columns and splits need --data"),
        ("classify", "Missing argument"),
        ("dance", "No such command 'dance'"),
    ],
)
def test_mistakes(vgg19: Vgg19, tmp_path: Path, arguments: str, words: str) -> None:
    write_image_folder(tmp_path / "one", {"blue": 4})
    write_image_folder(tmp_path / "holes", {"blue": 4, "red": 0})
    write_image_folder(tmp_path / "two", {"blue": 4, "red": 4})
    write_image_folder(tmp_path / "odd" / "train", {"blue": 4, "red": 4})
    write_image_folder(tmp_path / "odd" / "part 2", {"blue": 4, "red": 4})
    (tmp_path / "empty").mkdir()
    for label in ("blue", "red"):
        (tmp_path / "texts" / label).mkdir(parents=True)
        for number in range(10):
            (tmp_path / "texts" / label / f"{number}.jpg").write_text("text")
    (tmp_path / "typo.yaml").write_text("epcohs: 3\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics.json").write_text("{")
    before = {path for path in tmp_path.rglob("*") if "bentoml" not in path.parts}

    result = vgg19(*arguments.split())

    assert result.returncode in (1, 2)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert "Traceback" not in result.stdout
    after = {path for path in tmp_path.rglob("*") if "bentoml" not in path.parts}
    assert after == before  # nothing half-written


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        ("register", "none", "--debug"),
        pytest.param(("--debug", "register", "none"), marks=pytest.mark.exhaustive),
    ],
)
def test_debug_shows_the_traceback_wherever_it_stands(
    tmp_path: Path, place: tuple[str, ...]
) -> None:
    result = vgg19_process(tmp_path, *place)
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "BundleError: none does not exist" in result.stderr


def test_a_taken_http_port_is_one_line(vgg19: Vgg19) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = vgg19("serve", "--port", str(port))
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: can't listen on 127.0.0.1:{port} (")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_serve_takes_the_model_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(*arguments: str) -> str:
        result = vgg19_process(tmp_path, "serve", "--port", str(free_port()), *arguments)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        return result.stderr

    monkeypatch.setenv("VGG19_MODEL", "vgg19:environment")
    assert "no model vgg19:environment in" in serve()
    assert "no model vgg19:flag in" in serve("--model", "vgg19:flag")


def _truncate(bundle: Path) -> None:
    model = bundle / "model.onnx"
    model.write_bytes(model.read_bytes()[:-10])


def _link(bundle: Path) -> None:
    (bundle / "model.onnx").rename(bundle.parent / "elsewhere")
    (bundle / "model.onnx").symlink_to(bundle.parent / "elsewhere")


def _lists(name: str) -> Callable[[Path], None]:
    def spoil(bundle: Path) -> None:
        manifest = bundle / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"files": {', f'"files": {{"{name}": "",'))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_truncate, "model.onnx does not match its manifest"),
        (lambda bundle: (bundle / "golden.npz").unlink(), "golden.npz is missing"),
        (lambda bundle: (bundle / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (_link, "model.onnx is a link"),
        (_lists("../secret"), "lists '../secret', which is not a plain file name"),
        (_lists("/etc/passwd"), "lists '/etc/passwd', which is not a plain file name"),
        (_lists("model.yaml"), "lists 'model.yaml', which is not a file of a bundle"),
    ],
)
def test_what_is_no_whole_bundle_is_neither_registered_nor_promoted(
    vgg19: Vgg19, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    spoil(write_tiny_bundle(tmp_path / "spoilt"))
    refused = vgg19("register", "spoilt")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert words in refused.stderr
    assert "no model in" in vgg19("models").stdout

    write_tiny_bundle(tmp_path / "whole")
    assert vgg19("register", "whole").returncode == 0
    (manifest,) = (tmp_path / "bentoml" / "models" / "vgg19").glob("*/manifest.json")
    spoil(manifest.parent)
    refused = vgg19("promote", "latest")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert words in refused.stderr
    assert "nothing was promoted yet" in vgg19("history").stdout


def test_promoting_twice_says_so_and_rolling_back_goes_back(vgg19: Vgg19, tmp_path: Path) -> None:
    tags = []
    for day in (1, 2):
        write_tiny_bundle(tmp_path / f"{day}", f"2026-02-0{day}T12:00:00+00:00")
        tags.append(re.findall(r"vgg19:\S+", vgg19("register", f"{day}").stdout)[0])
        vgg19("promote", tags[-1])
    already = f"{tags[1]} is in production already; nothing was changed\n"
    assert vgg19("promote", tags[1]).stdout == already
    assert vgg19("promote", "latest").stdout == already
    assert vgg19("rollback", tags[1]).stdout == already
    assert len(vgg19("history", "--json").stdout.splitlines()) == 2
    assert vgg19("rollback").stdout == f"production is {tags[0]} (it was {tags[1]})\n"
    assert "there is nothing to go back to" in vgg19("rollback").stderr


def test_an_output_that_cannot_be_made_is_one_line(vgg19: Vgg19, tmp_path: Path) -> None:
    write_image_folder(tmp_path / "two", {"blue": 4, "red": 4})
    (tmp_path / "file").touch()
    result = vgg19(
        "train", "--data", "two", "--output", "file/run", "--weights", "none",
        "--strategy", "full", "--image-size", "32",
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr == "error: file/run: Not a directory\n"


# With SIGTERM: tests/integration/test_training_processes.py; SIGINT within the process:
# tests/training/loop/test_recipe.py.
@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signals_leave_a_run_that_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    write_image_folder(tmp_path / "two", {"blue": 60, "red": 60})
    command = [
        sys.executable, "-m", "testing.thin_cli", "train", "--data", "two", "--output", "run",
        "--weights", "none", "--strategy", "full", "--image-size", "32", "--epochs", "50",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "run" / "data.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=HANG_S)
    assert process.returncode == 128 + number
    assert stderr.endswith("; continue with 'vgg19 train --resume run'\n")
    assert (tmp_path / "run" / "checkpoints" / "state.pt").exists()
    assert list(tmp_path.rglob("run/**/.*")) == []


def test_promote_wants_force_for_a_model_that_is_no_better_than_none(
    vgg19: Vgg19, tmp_path: Path
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    logits = torch.tensor([1.0, 0, 0]).repeat(4, 1)
    held_out = classification_metrics(logits, torch.tensor([0, 0, 1, 2]), ("blue", "green", "red"))
    (bundle / "metrics.json").write_text(json_text({"held_out": {"split": "test", **held_out}}))
    write_manifest(bundle, read_manifest(bundle).provenance)
    assert vgg19("register", "bundle").returncode == 0
    refused = vgg19("promote", "latest")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "latest is not promoted: it is no better than always answering 'blue'" in refused.stderr
    assert "never answers 'green', 'red'" in refused.stderr
    assert refused.stderr.rstrip().endswith("--force promotes it")
    assert "nothing was promoted yet" in vgg19("history").stdout
    assert vgg19("promote", "latest", "--force").returncode == 0
    assert "promoted by hand" in vgg19("history").stdout


def test_redeploy_init_writes_a_file_that_redeploy_reads(vgg19: Vgg19, tmp_path: Path) -> None:
    without = vgg19("redeploy")
    assert without.returncode == 1
    assert "redeploy.yaml can't be read: there is none; 'vgg19 redeploy --init'" in without.stderr
    assert "give --data" in vgg19("redeploy", "--init").stderr
    write_image_folder(tmp_path / "flowers", {"blue": 4, "red": 4})
    written = vgg19("redeploy", "--init", "--data", "flowers")
    assert written.returncode == 0
    assert "wrote redeploy.yaml" in written.stdout
    assert load_redeploy_config(tmp_path / "redeploy.yaml").data == (Path("flowers"),)
    assert "exists already" in vgg19("redeploy", "--init", "--data", "flowers").stderr
    assert "goes with --init" in vgg19("redeploy", "--data", "flowers").stderr
