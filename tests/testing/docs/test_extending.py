"""What docs/extending.md names is there: each step names a file and something in it."""

from __future__ import annotations

import builtins
import re

import pytest

from testing.docs.check import ROOT

PAGE = ROOT / "docs" / "extending.md"
STEPS = re.findall(r"`([\w/]+\.(?:py|md))`,\s+`([^`]+)`", PAGE.read_text())
FILES = re.findall(r"`((?:[\w.]+/)+[\w.]+)`", PAGE.read_text())


def test_every_recipe_has_steps() -> None:
    recipes = PAGE.read_text().split("\n## ")[1:]
    assert all("\n1. `" in recipe for recipe in recipes)
    assert len(STEPS) > 20


@pytest.mark.parametrize(("path", "name"), STEPS)
def test_the_file_has_what_the_step_names(path: str, name: str) -> None:
    assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", (ROOT / path).read_text())


def test_the_files_are_there() -> None:
    assert [path for path in FILES if not (ROOT / path).exists()] == []


def test_the_examples_call_what_is_there() -> None:
    """Each function or method is defined in the example, or stands in a file of its recipe."""
    missing = []
    for recipe in PAGE.read_text().split("\n## ")[1:]:
        files = "".join((ROOT / path).read_text() for path in re.findall(r"`([\w/]+\.py)`", recipe))
        for example in re.findall(r"```python\n(.*?)```", recipe, re.DOTALL):
            known = files + "".join(re.findall(r"def \w+\(", example))
            called = set(re.findall(r"(?<!np\.)\b\w+(?=\()", example)) - set(dir(builtins))
            missing += [name for name in called if not re.search(rf"\b{name}\(", known)]
    assert missing == []
