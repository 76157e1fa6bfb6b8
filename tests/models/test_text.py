from __future__ import annotations

import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text import as_label, shown, shown_lines, utf8
from testing.server import ROOT

ANYTHING = st.text(st.characters(categories=None)) | st.binary().map(os.fsdecode)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain [red] <b> $x$ | \\", "plain [red] <b> $x$ | \\"),
        ("日本 🐈\u200d⬛ \u00a0", "日本 🐈\u200d⬛ \u00a0"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\x1b[31m\x07\x7f\x9b", r"\x1b[31m\x07\x7f\x9b"),
        ("\u202eevil\u2066\u200f", r"\u202eevil\u2066\u200f"),
        ("\u2028\u2029\ufeff\u200b", r"\u2028\u2029\ufeff\u200b"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_is_shown(name: str, text: str) -> None:
    assert shown(name) == text


@given(ANYTHING)
def test_what_is_shown_is_one_line_that_can_be_written(name: str) -> None:
    text = shown(name)
    text.encode()
    assert len(text.splitlines()) <= 1
    assert not {unicodedata.category(one) for one in text} & {"Cc", "Cs", "Zl", "Zp"}
    assert shown(text) == text
    assert shown_lines(f"{name}\n") == "\n".join(map(shown, f"{name}\n".split("\n")))


@given(ANYTHING)
def test_a_label_is_the_same_however_it_is_spelt(name: str) -> None:
    label = as_label(name)
    label.encode()
    assert as_label(label) == label
    assert as_label(unicodedata.normalize("NFD", label)) == label


def test_composed_and_decomposed_are_one_label() -> None:
    assert as_label("cafe\u0301") == as_label("caf\u00e9") == "caf\u00e9"
    assert as_label("ﬁ") == "ﬁ"  # but other characters are others
    assert utf8(os.fsdecode(b"a\xffb")) == r"a\xffb"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_streams_that_cannot_take_a_character_get_its_escape(encoding: str) -> None:
    code = (
        "from models.text import escape_unencodable; escape_unencodable()\nprint('\\u65e5 \\udcff')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )  # fmt: skip
    day = "\u65e5" if encoding == "utf-8" else r"\u65e5"
    assert result.stdout == f"{day} \\udcff\n".encode()
