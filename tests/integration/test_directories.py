"""Commands mean the same wherever they are typed: their modules are this project's, and their paths
the directory's."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer

from testing import patient
from testing.images import coloured_pixels, encode, write_image_folder
from testing.ports import free_port
from testing.server import ROOT, Server, serve_with, wait_until_ready
from testing.waiting import HANG_S

BIN = Path(sys.executable).parent
IMAGE = encode(coloured_pixels(2))
# What users' projects hold beside their images. Imported, each says so and ends the process.
_INSTALLED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
OURS = tuple(sorted({name.partition(".")[0] for name in _INSTALLED} | {"service"}))
OTHERS = ("testing", "grpc", "http", "bentoml", "typer", "numpy", "torch", "onnx", "starlette")
TRAP = "import os, sys; sys.stderr.write('IMPORTED ' + __name__ + '\\n'); os._exit(99)\n"

# Each command, with arguments that have it import what it works with, and what it says then.
COMMANDS: dict[str, tuple[list[str], str]] = {
    "--version": (["--version"], "."),
    "--help": (["--help"], "Fine-tune VGG-19"),
    "train": (["train", "--data", "missing"], "missing"),
    "probe": (["probe", "--data", "missing"], "missing"),
    "review": (["review", "missing"], "missing"),
    "find-lr": (["find-lr", "--data", "missing"], "missing"),
    "check-data": (["check-data", "images"], "images"),
    "reproduce": (["reproduce", "missing"], "missing"),
    "evaluate": (["evaluate", "missing"], "missing"),
    "export": (["export", "missing"], "missing"),
    "register": (["register", "missing"], "missing"),
    "promote": (["promote", "latest"], "vgg19:"),
    "rollback": (["rollback", "nothing"], "nothing"),
    "history": (["history"], "promoted by hand"),
    "diff": (["diff", "latest", "production"], "same"),
    "redeploy": (["redeploy", "--config", "missing.yaml"], "missing.yaml"),
    "build": (["build", "nothing"], "nothing"),
    "drift": (["drift", "latest", "images"], "no reference"),
    "shadow": (["shadow", "nothing"], "nothing"),
    "canary": (["canary", "nothing", "--percent", "5"], "nothing"),
    "label": (["label", "missing"], "missing"),
    "models": (["models"], "vgg19:"),
    "models push": (["models", "push", "pushed", "latest"], "pushed"),
    "models pull": (["models", "pull", "missing"], "missing"),
    "sign": (["sign", "latest", "--key", "missing.pem"], "missing.pem"),
    "verify": (["verify", "latest", "--key", "missing.pem"], "missing.pem"),
    "key": (["key"], "sha256"),
    "events": (["events"], "VGG19_EVENTS_URL"),
    "events send": (["events", "send"], "VGG19_EVENTS_URL"),
    "events test": (["events", "test"], "VGG19_EVENTS_URL"),
    "events key": (["events", "key", "events.key"], "wrote events.key"),
    "cache list": (["cache", "list"], ""),
    "cache clear": (["cache", "clear"], "removed"),
    "classify": (["classify", "http://127.0.0.1:9", "a.png"], "a.png"),
    "doctor": (["doctor"], "golden samples equal"),
    "predict": (["predict", "images", "--output", "out.csv"], "out.csv"),
    "predict on Ray": (
        ["predict", "images", "--engine", "ray", "--workers", "1", "--output", "ray.csv"],
        " by vgg19:",
    ),
}


@pytest.fixture(
    scope="module",
    params=[
        "modules",
        pytest.param("packages", marks=pytest.mark.exhaustive),
        pytest.param("folders", marks=pytest.mark.exhaustive),
    ],
)
def hostile(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory where every name is taken: by a file, a package, or a folder without code."""
    place: Path = tmp_path_factory.mktemp("hostile")
    for name in OURS + OTHERS:
        if request.param == "modules":
            (place / f"{name}.py").write_text(TRAP)
            continue
        (place / name).mkdir()
        (place / name / "main.py").write_text(TRAP)
        (place / name / "image.py").write_text(TRAP)
        if request.param == "packages":
            (place / name / "__init__.py").write_text(TRAP)
    write_image_folder(place / "images", {"red": 2, "green": 2})
    return place


def environment(home: Path, hostile: Path, python_path: str) -> dict[str, str]:
    return os.environ | {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "COLUMNS": "200",
        "XDG_CACHE_HOME": str(hostile / ".cache"),
        **({"PYTHONPATH": python_path} if python_path else {}),
    }


FEW = ("key", "models", "doctor", "predict", "history", "label")


@pytest.mark.parametrize(
    "python_path",
    [
        "HERE",
        *(pytest.param(path, marks=pytest.mark.exhaustive) for path in ("", ".", "LIBRARIES")),
    ],
)
def test_a_few_commands_import_this_project(
    python_path: str, hostile: Path, tiny_home: Path, tmp_path: Path
) -> None:
    check_imports({name: COMMANDS[name] for name in FEW}, python_path, hostile, tiny_home, tmp_path)


def test_no_command_is_left_out() -> None:
    from cli.main import app  # which imports no more than the names of the commands

    group: Any = typer.main.get_command(app)
    names = set[str]()
    for name, command in group.commands.items():
        inner = getattr(command, "commands", {})
        names |= {f"{name} {one}" for one in inner} or {name}
    # These serve until they are ended.
    assert names - {"serve"} <= set(COMMANDS)


def test_a_directory_with_one_of_our_names_is_left_out(tmp_path: Path) -> None:
    for name in OURS:
        (tmp_path / name / name).mkdir(parents=True)
    result = subprocess.run(
        [sys.executable, "-c", "import vgg19_finetune as v; print(len(v.guard_imports()))"],
        cwd=ROOT, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(str(tmp_path / name) for name in OURS)},
    )  # fmt: skip
    assert int(result.stdout) == len(OURS)


@pytest.mark.exhaustive
def test_every_command_imports_this_project(hostile: Path, tiny_home: Path, tmp_path: Path) -> None:
    """Where both the directory and PYTHONPATH are full."""
    check_imports(COMMANDS, "HERE", hostile, tiny_home, tmp_path)


def check_imports(
    commands: dict[str, tuple[list[str], str]],
    python_path: str,
    hostile: Path,
    tiny_home: Path,
    tmp_path: Path,
) -> None:
    libraries = tmp_path / "libraries"
    (libraries / "something_of_mine-1.dist-info").mkdir(parents=True)
    (libraries / "something_of_mine.py").write_text("")
    given = {"HERE": str(hostile), "LIBRARIES": f"{libraries}{os.pathsep}{hostile}"}
    variables = environment(tiny_home, hostile, given.get(python_path, python_path))
    for name, (arguments, says) in commands.items():
        result = subprocess.run(
            [str(BIN / "vgg19"), *arguments],
            cwd=hostile, env=variables, capture_output=True, text=True, check=False, timeout=280,
        )  # fmt: skip
        said = result.stdout + result.stderr
        assert "IMPORTED" not in said, (name, said)
        assert "Traceback" not in said, (name, said)
        assert says in said, (name, said)
        warnings = [line for line in said.splitlines() if line.startswith("warning: PYTHONPATH")]
        assert len(warnings) == bool(python_path), (name, said)


@pytest.mark.exhaustive
@pytest.mark.parametrize("python_path", ["", "OURS"])
def test_what_starts_on_several_processes(
    python_path: str, hostile: Path, tiny_home: Path, tmp_path: Path
) -> None:
    """The form in docs/training.md. (A PYTHONPATH that takes the place of torchrun's own imports
    stops torchrun before anything of this project is there.)"""
    assert (
        "torchrun --no-python --nproc-per-node 2 vgg19 train"
        in (ROOT / "docs" / "training.md").read_text()
    )
    place = write_ours(tmp_path / "ours") if python_path else hostile
    variables = environment(tiny_home, hostile, str(place) if python_path else "")
    result = subprocess.run(
        [str(BIN / "torchrun"), "--no-python", "--nproc-per-node", "2", "--master-port",
         str(free_port()), "vgg19", "train", "--data", "missing"],
        cwd=place, env=variables | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert "IMPORTED" not in result.stderr
    assert "missing" in result.stderr
    assert ("warning: PYTHONPATH" in result.stderr) == bool(python_path)


def write_ours(place: Path) -> Path:
    """A directory where the names of this project are taken, and no others."""
    place.mkdir()
    for name in OURS:
        (place / f"{name}.py").write_text(TRAP)
    return place


@pytest.mark.parametrize("python_path", [pytest.param("", marks=pytest.mark.exhaustive), "HERE"])
def test_vgg19_serve(python_path: str, hostile: Path, tiny_home: Path, tmp_path: Path) -> None:
    variables = environment(tiny_home, hostile, str(hostile) if python_path else "")
    http_port, grpc_port = str(free_port()), str(free_port())
    with running(
        [str(BIN / "vgg19"), "serve", "--port", http_port, "--grpc-port", grpc_port],
        hostile, variables, tmp_path / "log", http_port,
    ):  # fmt: skip
        reply = patient.post(
            f"http://127.0.0.1:{http_port}/classify",
            content=IMAGE,
            headers={"Content-Type": "image/png"},
        )
        assert reply.status_code == 200
    assert "IMPORTED" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("python_path", [pytest.param("", marks=pytest.mark.exhaustive), "OURS"])
def test_bentoml_serve(python_path: str, hostile: Path, tiny_home: Path, tmp_path: Path) -> None:
    """With the project's directory named. (A PYTHONPATH that takes the place of BentoML's own
    imports stops BentoML before anything of this project is there.)"""
    settings = {}
    if python_path:
        settings["PYTHONPATH"] = str(write_ours(tmp_path / "ours"))
    options = ("--working-dir", str(ROOT))
    with serve_with(tiny_home, tmp_path / "log", settings, options=options, cwd=hostile) as server:
        assert patient.get(f"{server.url}/model").status_code == 200
    assert "IMPORTED" not in (tmp_path / "log").read_text()


@contextmanager
def running(
    command: list[str], cwd: Path, variables: dict[str, str], log: Path, port: str
) -> Iterator[None]:
    """A command that serves, from ready to stopped."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=cwd, env=variables, stdout=output, stderr=output)
    try:
        wait_until_ready(Server(process, int(port), 0, log))
        yield
    finally:
        process.terminate()
        process.wait(HANG_S)


@pytest.mark.parametrize(
    "urls",
    [
        ("kept", "file:kept"),
        pytest.param(("./kept", "file://kept", "local://kept"), marks=pytest.mark.exhaustive),
    ],
)
def test_relative_paths_are_those_of_the_directory(
    urls: tuple[str, ...], tiny_home: Path, tmp_path: Path
) -> None:
    """By either command, for what is read and what is written; nothing lands in the source."""
    before = {path.name for path in ROOT.iterdir()}
    for number, url in enumerate(urls):
        place, log = tmp_path / f"place{number}", tmp_path / f"log{number}"
        place.mkdir()
        settings = {
            "VGG19_STORE": os.path.relpath(tiny_home / "models", place),
            "VGG19_CAPTURE": "all",
            "VGG19_CAPTURE_URL": url,
            "BENTOML_HOME": "home",
        }
        if number % 2:
            options = ("--working-dir", str(ROOT))
            with serve_with(Path("home"), log, settings, options=options, cwd=place) as server:
                ask(server.url)
        else:
            port, grpc_port = str(free_port()), str(free_port())
            command = [str(BIN / "vgg19"), "serve", "--port", port, "--grpc-port", grpc_port]
            with running(command, place, os.environ | settings, log, port):
                ask(f"http://127.0.0.1:{port}")
            assert (place / "home").is_dir()
        assert len(list((place / "kept").glob("*.img"))) == 1, settings
    assert {path.name for path in ROOT.iterdir()} == before


def ask(url: str) -> None:
    reply = patient.post(f"{url}/classify", content=IMAGE, headers={"Content-Type": "image/png"})
    assert reply.status_code == 200
