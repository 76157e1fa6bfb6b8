from __future__ import annotations

from pathlib import Path

import pytest

from testing.images import write_image_folder
from training.data.exclude import leave_out
from training.data.listing import DataError
from training.data.sources import find_images
from training.loop.config_file import load_config
from training.loop.context import load_data
from training.reporter import SilentReporter


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "data", {"blue": 6, "red": 6})


def write(tmp_path: Path, *names: str) -> Path:
    table = tmp_path / "wrong.csv"
    rows = [f'"{name}",blue,red,0.9\n' for name in names]
    table.write_text("file,label,suggested,margin\n" + "".join(rows), encoding="utf-8")
    return table


def test_the_named_files_are_left_out_and_the_others_stay(root: Path, tmp_path: Path) -> None:
    files = find_images(root).files
    table = write(tmp_path, "blue/0002.png", "./red/../red/0007.png", str(root / "red/0008.png"))
    kept, excluded = leave_out(files, table, root)
    names = ["blue/0002.png", "red/0007.png", "red/0008.png"]
    assert [str(file.path.relative_to(root)) for file in excluded] == names
    assert {file.reason for file in excluded} == {f"excluded by {table}"}
    assert [*kept] == [file for file in files if file.path not in {one.path for one in excluded}]


def test_a_relative_root_is_the_same_place(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = find_images(Path("data")).files
    table = write(tmp_path, str(root / "blue/0001.png"), "red/0006.png")
    assert len(leave_out(files, table, Path("data"))[1]) == 2


def test_a_name_of_nothing_is_an_error(root: Path, tmp_path: Path) -> None:
    table = write(tmp_path, "blue/0002.png", "blue/nothing.png", "0001.png")
    with pytest.raises(DataError, match=r"wrong\.csv excludes 0001\.png, blue/nothing\.png, which"):
        leave_out(find_images(root).files, table, root)


@pytest.mark.parametrize("content", ["", "file\n", "file,label\n\n , \n"])
def test_a_table_of_nothing_leaves_all(root: Path, tmp_path: Path, content: str) -> None:
    table = tmp_path / "empty.csv"
    table.write_text(content)
    files = find_images(root).files
    assert leave_out(files, table, root) == (files, [])


def test_a_table_that_isnt_there_is_an_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exclude .*none.csv can't be read as CSV"):
        leave_out(find_images(root).files, tmp_path / "none.csv", root)


def test_a_run_counts_tells_and_records_them(root: Path, tmp_path: Path) -> None:
    table = write(tmp_path, "blue/0002.png", "red/0007.png")
    reporter = SilentReporter()
    config = load_config(None, {"data": root, "image_size": 32, "exclude": table})
    data = load_data(config, reporter)
    assert len(data.samples) == 10
    assert f"{table} excludes 2 of 12 images" in reporter.messages
    assert [file.path.name for file in data.skipped] == ["0002.png", "0007.png"]
    assert config.absolute().exclude == table.absolute()
    everything = load_data(config.model_copy(update={"exclude": None}), reporter)
    assert data.fingerprint() != everything.fingerprint()


def test_files_that_are_excluded_are_no_bad_images(root: Path, tmp_path: Path) -> None:
    table = write(tmp_path, *(f"blue/{number:04}.png" for number in range(3)))  # half of a class
    config = load_config(None, {"data": root, "image_size": 32, "exclude": table})
    assert load_data(config, SilentReporter()).counts()["train"]["blue"] > 0
