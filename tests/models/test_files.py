from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from models.files import json_text, staged_directory, staged_file, workplace


class TestStagedDirectory:
    def test_takes_the_place_of_its_target(self, tmp_path: Path) -> None:
        with staged_directory(tmp_path / "made") as staging:
            (staging / "a").write_text("1")
            assert not (tmp_path / "made").exists()
        assert (tmp_path / "made" / "a").read_text() == "1"
        assert [path.name for path in tmp_path.iterdir()] == ["made"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_leaves_nothing_after_an_error(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        with pytest.raises(error), staged_directory(tmp_path / "made") as staging:
            (staging / "a").write_text("1")
            raise error
        assert list(tmp_path.iterdir()) == []


class TestStagedFile:
    def test_replaces_its_target(self, tmp_path: Path) -> None:
        target = tmp_path / "new" / "file"
        for text in ("one", "two"):
            with staged_file(target) as staging:
                staging.write_text(text)
            assert target.read_text() == text
        assert [path.name for path in target.parent.iterdir()] == ["file"]
        assert target.stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_leaves_the_old_one_after_an_error(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        (tmp_path / "file").write_text("old")
        with pytest.raises(error), staged_file(tmp_path / "file") as staging:
            staging.write_text("half")
            raise error
        assert (tmp_path / "file").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_an_error_of_the_disk_names_the_file(self, tmp_path: Path) -> None:
        with (
            pytest.raises(OSError, match="No space left") as caught,
            staged_file(tmp_path / "file"),
        ):
            raise OSError(28, "No space left on device")  # as a write does
        assert caught.value.filename == str(tmp_path / "file")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside threads
class TestWorkplace:
    def killed(self, parent: Path) -> None:
        child = os.fork()
        if child == 0:
            with workplace(parent, ".made-") as place:
                (place / "half").mkdir()
                (place / "half" / "file").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)

    def test_what_a_killed_process_left_is_removed_by_the_next(self, tmp_path: Path) -> None:
        self.killed(tmp_path)
        (left,) = tmp_path.iterdir()
        with workplace(tmp_path, ".made-") as place:
            assert [*tmp_path.iterdir()] == [place]
            assert place != left
        assert list(tmp_path.iterdir()) == []

    def test_one_that_is_worked_in_stays(self, tmp_path: Path) -> None:
        with workplace(tmp_path, ".made-") as first:
            (first / "mine").touch()
            with workplace(tmp_path, ".made-") as second:
                assert second != first
            assert (first / "mine").exists()

    def test_directories_of_others_stay(self, tmp_path: Path) -> None:
        (tmp_path / ".made-by-hand").mkdir()
        (tmp_path / ".made-by-hand" / "file").touch()
        (tmp_path / "other").mkdir()
        (tmp_path / ".made-link").symlink_to(tmp_path / "other")
        self.killed(tmp_path)
        with workplace(tmp_path, ".made-"):
            pass
        assert {p.name for p in tmp_path.iterdir()} == {".made-by-hand", "other", ".made-link"}


@pytest.mark.parametrize(
    "content",
    [
        {}, [], {"a": {}}, {"a": []}, {"a": [1, 2.5, None, True]}, {"a": {"b": {"c": [[1], [2]]}}},
        [{"a": 1}, {"b": {"c": [1]}}], {"rows": [{"a": [1, 2]}, {}]}, {"[ 1 ]": "[\n 1 ]\u2028"},
    ],
)  # fmt: skip
def test_json_is_read_as_it_was_written(content: Any) -> None:
    assert json.loads(json_text(content)) == content


def test_json_has_a_line_for_each_key_and_row() -> None:
    text = json_text({"a": {"b": 1, "c": [1, 2]}, "rows": [{"x": 1, "y": 2}, {"x": 3}]})
    assert text.splitlines() == [
        "{", '  "a": {', '    "b": 1,', '    "c": [1, 2]', "  },", '  "rows": [',
        '    {"x": 1, "y": 2},', '    {"x": 3}', "  ]", "}",
    ]  # fmt: skip
