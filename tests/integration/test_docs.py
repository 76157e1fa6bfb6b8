"""The documentation's console blocks do what they say, and its sample answers are real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.registry import store
from testing.bundles import write_tiny_bundle
from testing.docs.check import ROOT, RUN, pages
from testing.docs.markdown import Fence, read_page
from testing.images import write_image_folder
from testing.server import Server

pytestmark = pytest.mark.exhaustive  # tests/testing/docs reads each block

_ADDRESS = "http://127.0.0.1:3000"
_NOT_OF_TINY_MODELS = {"distance"}  # which needs features, see models/export/distance_graph.py


def _blocks() -> Iterator[tuple[str, Fence, Fence | None]]:
    """Each console block that is to be run, with the JSON that stands below it: its answer."""
    for path in pages(ROOT):
        fences = read_page(path).fences
        for fence, following in zip(fences, [*fences[1:], None], strict=False):
            if fence.marker == RUN:
                answer = following if following and following.language == "json" else None
                yield f"{path.relative_to(ROOT)}:{fence.line}", fence, answer


BLOCKS = {place: (fence, answer) for place, fence, answer in _blocks()}


@pytest.fixture
def place(tmp_path: Path, store_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader of the documentation types: images, and a store with two models."""
    for day in (1, 2):
        store.register(write_tiny_bundle(tmp_path / f"{day}", f"2026-01-0{day}T12:00:00+00:00"))
        store.promote("latest")
    write_image_folder(tmp_path / "photos", {"red": 1, "blue": 1})
    images = sorted((tmp_path / "photos").rglob("*.png"))
    for name, image in zip(("3.png", "8.png"), images, strict=True):
        (tmp_path / name).write_bytes(image.read_bytes())
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "flowers" / "rose").mkdir(parents=True)
    (tmp_path / "flowers" / "rose" / "1.jpg").write_bytes(images[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENTOML_HOME", str(store_home))
    return tmp_path


@pytest.fixture
def type_command(
    place: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    run_main: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
) -> Callable[[str], str]:
    """Type one line of the documentation; what it prints."""

    def execute(program: str, arguments: list[str], environment: dict[str, str]) -> None:
        result = subprocess.run([program, *arguments[1:]], env=environment, check=False)
        sys.exit(result.returncode)

    monkeypatch.setattr(os, "execve", execute)

    def run(command: str) -> str:
        command = command.replace(_ADDRESS, server.url)
        command = command.replace("vgg19:VERSION", f"vgg19:{store.resolve('latest')}")
        words = command.partition("  #")[0].split()
        if words[0] == "vgg19":  # in this process, which has imported it
            code = run_main(*words[1:])
        else:
            programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            code = subprocess.run(
                ["bash", "-c", command], env=os.environ | {"PATH": programs}, check=False
            ).returncode
        output, errors = capfd.readouterr()
        assert code == 0, errors
        return output

    return run


@pytest.mark.parametrize("where", BLOCKS)
def test_a_block_of_the_documentation(where: str, type_command: Callable[[str], str]) -> None:
    fence, sample = BLOCKS[where]
    outputs = [type_command(command) for command in fence.commands]
    if sample is not None:
        assert shape(json.loads(sample.text)) == shape(json.loads(outputs[-1]))


def shape(value: Any) -> Any:
    """Keys and types, without the values: two answers of one interface have the same."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items() if key not in _NOT_OF_TINY_MODELS}
    if isinstance(value, list):
        parts = [shape(part) for part in value]
        return [part for number, part in enumerate(parts) if part not in parts[:number]]
    if isinstance(value, bool) or value is None:
        return type(value)
    return float if isinstance(value, int | float) else type(value)
