from __future__ import annotations

from pathlib import Path

import pytest

from models.files import staged_directory, staged_file


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
