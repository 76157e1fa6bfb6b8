from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.reloading import FileWatch, Reloadable
from testing.waiting import HANG_S


class Reader:
    """Takes what the files hold, unless it is 'bad'."""

    def __init__(self, *files: Path) -> None:
        self.files = files
        self.holds = ""

    def __call__(self) -> None:
        text = "".join(file.read_text() for file in self.files)
        if text == "bad":
            raise ValueError("it is bad")
        self.holds = text


def written(file: Path, text: str) -> None:
    file.write_text(text)


def renamed(file: Path, text: str) -> None:
    other = file.with_name("other")
    other.write_text(text)
    other.replace(file)


def linked(file: Path, text: str) -> None:
    """As Kubernetes changes a mounted Secret: a link to another folder."""
    folder = file.parent / f"data-{text}"
    folder.mkdir(exist_ok=True)
    (folder / "x").write_text(text)
    link = file.parent / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(folder / "x")
    link.replace(file)


def same_size_and_second(file: Path, text: str) -> None:
    before = file.stat()
    file.write_text(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [written, renamed, linked, same_size_and_second])
def test_every_way_to_change_a_file_is_noticed(
    change: Callable[[Path, str], None], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    reader = Reader(file)
    watch = FileWatch([Reloadable("it", [file], reader)], 1)
    watch.look()
    assert reader.holds == ""  # nothing has changed
    for text in ("new", "old", "one"):
        change(file, text)
        watch.look()
        assert reader.holds == text


def test_what_is_bad_is_told_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "file"
    file.write_text("old")
    reader = Reader(file)
    watch = FileWatch([Reloadable("the file", [file], reader)], 1)
    file.write_text("bad")
    for _ in range(5):
        watch.look()
    assert caplog.text.count("it is bad; the previous content stays in force") == 1
    file.unlink()
    for _ in range(5):
        watch.look()
    assert caplog.text.count("No such file") == 1
    file.write_text("good")
    watch.look()
    assert reader.holds == "good"
    file.write_text("bad")
    watch.look()
    assert caplog.text.count("it is bad") == 2


def test_files_that_belong_together_are_read_when_all_are_there(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for file in (first, second):
        file.write_text("old")
    reader = Reader(first, second)
    watch = FileWatch([Reloadable("both", [first, second], reader)], 1)
    for file in (first, second):
        file.write_text("new")
        watch.look()
    assert reader.holds == "newnew"


def test_what_another_one_read_is_read_at_the_first_look(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("since")
    reader = Reader(tmp_path / "file")
    FileWatch([Reloadable("it", reader.files, reader, read_before=True)], 1).look()
    assert reader.holds == "since"


async def test_it_goes_on_whatever_is_raised(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("0")
    raised: list[type[Exception]] = []
    kinds = [ValueError, OSError, RuntimeError, UnicodeError, KeyError, MemoryError]
    all_raised = asyncio.Event()
    loop = asyncio.get_running_loop()

    def reload() -> None:
        if len(raised) == len(kinds):
            loop.call_soon_threadsafe(all_raised.set)
            return
        raised.append(kinds[len(raised)])
        raise raised[-1]("x")

    watch = asyncio.create_task(FileWatch([Reloadable("it", [file], reload)], 0.001).run())
    await asyncio.sleep(0)
    file.write_text("11")
    await asyncio.wait_for(all_raised.wait(), HANG_S)
    assert raised == kinds
    watch.cancel()
