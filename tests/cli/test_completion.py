"""Typer's shell completion, behind `main`, which handles arguments and signals itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("vgg19 pro", ["promote", "probe"]),
        ("vgg19 models pu", ["push", "pull"]),
        ("vgg19 train --strat", ["--strategy"]),
        ("vgg19 nothing-begins-so", []),
    ],
)
def test_bash_is_told_what_there_is(
    words: str,
    completed: list[str],
    run_main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_VGG19_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert run_main() == 0
    assert capsys.readouterr().out.split() == completed


def test_the_script_for_a_shell(
    run_main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_VGG19_COMPLETE", "source_zsh")
    assert run_main() == 0
    assert capsys.readouterr().out.strip().startswith("#compdef vgg19")
