from __future__ import annotations

import io

from rich.console import Console

from cli.console import ConsoleReporter


def reporter(terminal: bool) -> tuple[ConsoleReporter, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return (
        ConsoleReporter(
            Console(file=out, force_terminal=terminal, width=120, highlight=False),
            Console(file=err, width=120, highlight=False),
        ),
        out,
        err,
    )


def test_the_bar_shows_count_rate_note_and_time_left() -> None:
    console, out, _ = reporter(terminal=True)
    with console.progress("epoch 1/2", 100) as advance:
        for _ in range(10):
            advance(10, "loss 0.123 accuracy 45.6%")
    text = out.getvalue()
    for shown in (
        "epoch 1/2",
        "100/100",
        "images/s",
        "loss 0.123 accuracy 45.6%",
        "left",
        "0:00:00",
    ):
        assert shown in text


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
