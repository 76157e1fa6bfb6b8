from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from cli.console import ConsoleReporter


def reporter(terminal: bool, width: int = 120) -> tuple[ConsoleReporter, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return (
        ConsoleReporter(
            Console(file=out, force_terminal=terminal, width=width, highlight=False),
            Console(file=err, width=120, highlight=False),
        ),
        out,
        err,
    )


def test_the_bar_shows_count_rate_note_and_time_left() -> None:
    console, out, _ = reporter(terminal=True)
    with console.progress("epoch 1/2", 100, unit="images") as advance:
        for _ in range(10):
            time.sleep(0.02)
            advance(10, "loss 0.123 acc 45.6%")
    text = out.getvalue()
    for shown in (
        "epoch 1/2",
        "100/100",
        "images/s",
        "loss 0.123 acc 45.6%",
        "left",
    ):
        assert shown in text


@pytest.mark.parametrize(
    ("description", "note"),
    [("epoch 10/20", "loss 12.345 acc 100.0%"), ("features of train, view 13", "")],
)
def test_a_bar_has_one_line_of_80_columns(description: str, note: str) -> None:
    console, out, _ = reporter(terminal=True, width=80)
    with console.progress(description, 30_242, unit="images") as advance:
        for _ in range(10):
            time.sleep(0.02)  # or the rate has ten digits
            advance(3_000, note)
    frames = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).replace("\r", "\n")
    lines = [line for line in frames.splitlines() if line.strip()]
    assert max(map(len, lines)) <= 80
    assert all(line.startswith(description[:9]) for line in lines)  # no second one
    assert "30000/30242" in lines[-1]
    assert note in lines[-1]


def test_only_what_has_a_unit_has_a_rate() -> None:
    console, out, _ = reporter(terminal=True)
    with console.progress("evaluating on val", 30_242) as advance:
        for _ in range(10):
            advance(3_000, "")
    assert "/s" not in out.getvalue()


def test_no_bar_in_a_log_file() -> None:
    console, out, _ = reporter(terminal=False)
    with console.progress("epoch 1/2", 100) as advance:
        advance(100, "")
    assert out.getvalue().strip() == ""


def test_text_in_brackets_is_text() -> None:
    console, out, err = reporter(terminal=False)
    console.say("class [red] x[/] :cat: \\")
    console.warn("file [a]\n\x1b[31m.png")
    assert out.getvalue() == "class [red] x[/] :cat: \\\n"
    assert err.getvalue() == "warning: file [a]\\n\\x1b[31m.png\n"
