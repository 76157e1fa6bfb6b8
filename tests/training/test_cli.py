"""Mistakes on the command line: one line, an exit code, no traceback, nothing written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.helpers import run_command, write_image_folder

COMMANDS = ("train", "evaluate", "export", "register", "promote", "models", "serve", "classify")


def vgg19(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("vgg19", *arguments, cwd=place, home=place / "bentoml")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(tmp_path: Path, command: str) -> None:
    result = vgg19(tmp_path, command, "--help")
    assert result.returncode == 0
    assert f"Example: vgg19 {command}" in result.stdout


def test_without_a_command_the_help_is_shown(tmp_path: Path) -> None:
    result = vgg19(tmp_path)
    assert result.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train", "data is missing; give --data"),
        ("train --data none", "data directory none does not exist"),
        ("train --data empty", "data directory empty holds no folders"),
        ("train --data one", "one class ('blue')"),
        ("train --data holes", "class 'red' in holes is empty"),
        ("train --data texts", "10 of 10 files of class 'blue' are no images (100%"),
        ("train --data two --strategy head2", "strategy is 'head2', it should be 'fc' or 'full'"),
        ("train --data two --image-size 31", "image_size is 31"),
        ("train --data two --config typo.yaml", "unknown config key 'epcohs'"),
        ("train --data two --weights none.pth", "--weights none.pth: no such file"),
        ("train --data two --weights typo.yaml", "--weights typo.yaml: "),
        ("train --data two --output two", "output two exists already"),
        ("train --data two --epochs many", "--epochs"),
        ("train --dta two", "No such option: --dta"),
        ("evaluate none", "none is no run"),
        ("export none", "none is no finished run"),
        ("export broken", "broken/metrics.json is damaged"),
        ("register none", "none is no bundle"),
        ("promote vgg19:1", "no model vgg19:1 in"),
        ("promote latest", "no model in"),
        ("serve --model vgg19:1 --host 127.0.0.1", "no model vgg19:1 in"),
        ("serve", "no production model in"),
        ("classify http://127.0.0.1:1 typo.yaml", "no service answers at http://127.0.0.1:1"),
        ("classify nowhere typo.yaml", "no service answers at nowhere"),
        ("classify http://127.0.0.1:1 none.jpg", "none.jpg can't be read"),
        ("classify", "Missing argument"),
        ("dance", "No such command 'dance'"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: str, words: str) -> None:
    write_image_folder(tmp_path / "one", {"blue": 4})
    write_image_folder(tmp_path / "holes", {"blue": 4, "red": 0})
    write_image_folder(tmp_path / "two", {"blue": 4, "red": 4})
    (tmp_path / "empty").mkdir()
    for label in ("blue", "red"):
        (tmp_path / "texts" / label).mkdir(parents=True)
        for number in range(10):
            (tmp_path / "texts" / label / f"{number}.jpg").write_text("text")
    (tmp_path / "typo.yaml").write_text("epcohs: 3\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics.json").write_text("{")
    before = {path for path in tmp_path.rglob("*") if "bentoml" not in path.parts}

    result = vgg19(tmp_path, *arguments.split())

    assert result.returncode in (1, 2)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(("error: ", "Error: [serve] "))
    assert words in lines[0]
    assert "Traceback" not in result.stdout
    after = {path for path in tmp_path.rglob("*") if "bentoml" not in path.parts}
    assert after == before  # nothing half-written


@pytest.mark.parametrize(
    "place", [("--debug", "evaluate", "none"), ("evaluate", "none", "--debug")]
)
def test_debug_shows_the_traceback_wherever_it_stands(
    tmp_path: Path, place: tuple[str, ...]
) -> None:
    result = vgg19(tmp_path, *place)
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "RunError: none is no run" in result.stderr
