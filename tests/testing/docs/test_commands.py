"""Every `vgg19` line of the documentation is one that the command takes, run or not."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.main import get_command

from cli.main import app
from testing.docs.check import ROOT, pages
from testing.docs.markdown import read_page


def _command_lines() -> Iterator[tuple[str, str]]:
    for path in pages(ROOT):
        for fence in read_page(path).fences:
            if fence.language == "console":
                for command in fence.commands:
                    yield f"{path.relative_to(ROOT)}:{fence.line}", command


def _vgg19_arguments(command: str) -> Iterator[list[str]]:
    """Of each `vgg19` in a line of the shell, behind variables and torchrun too."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    for separated, part in itertools.groupby(words, lambda word: word in ("&&", "|", ";")):
        called = list(itertools.dropwhile(lambda word: "=" in word, part))
        if not separated and called and called[0] in ("vgg19", "torchrun") and "vgg19" in called:
            yield called[called.index("vgg19") + 1 :]


LINES = [(place, words) for place, line in _command_lines() for words in _vgg19_arguments(line)]


def test_the_documentation_has_commands() -> None:
    assert len(LINES) > 30


@pytest.fixture(scope="module")
def vgg19() -> Any:
    return get_command(app)


@pytest.mark.parametrize(("place", "words"), LINES, ids=[f"{p} {' '.join(w)}" for p, w in LINES])
def test_the_command_takes_it(vgg19: Any, place: str, words: list[str]) -> None:
    command, context = vgg19, typer.Context(vgg19, info_name="vgg19")
    while words and words[0] in getattr(command, "commands", {}):
        _, command, words = command.resolve_command(context, words)
    assert command is not vgg19, f"{place}: there is no command {words[:1]}"
    command.make_context(command.name, words, parent=context)  # raises UsageError
