"""`vgg19 predict` as a user runs it."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyarrow import parquet

from serving.offline.files import Classified, PredictError, find_files
from serving.offline.table import Progress, check_output, columns
from testing.commands import run_command, vgg19
from testing.images import write_image_folder
from testing.server import make_home
from testing.waiting import HANG_S

pytestmark = pytest.mark.slow

COUNTS = {"blue": 7, "green": 6, "red": 7}
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("predict"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = write_image_folder(tmp_path / "images", COUNTS)
    (folder / "red" / "text.jpg").write_text("no image")
    (folder / "notes.txt").write_text("passed over")
    return folder


def read(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_into_a_table(home: Path, images: Path, tmp_path: Path) -> None:
    said = vgg19(home, "predict", str(images), "--output", str(tmp_path / "p.csv"), "--top-k", "2")
    rows = read(tmp_path / "p.csv")
    assert list(rows[0]) == [
        "file",
        "label_1",
        "probability_1",
        "label_2",
        "probability_2",
        "accepted",
        "distance",
        "error",
    ]
    good = [row for row in rows if not row["error"]]
    assert [row["label_1"] for row in good] == [Path(row["file"]).parent.name for row in good]
    assert len(good) == 20
    (bad,) = (row for row in rows if row["error"])
    assert Path(bad["file"]).name == "text.jpg"
    assert "21 images by vgg19:" in said
    assert "1 could not be read" in said
    assert "text.jpg: not an image" in said
    assert "1 file (1 .txt) skipped" in said
    assert not (tmp_path / "p.csv.part").exists()


def test_parquet_of_a_csv_and_a_pattern(home: Path, images: Path, tmp_path: Path) -> None:
    (images / "list.csv").write_text("path,note\nblue/0000.png,x\nred/0013.png,y\n")
    sources = (str(images / "list.csv"), str(images / "**" / "0007.png"))
    vgg19(home, "predict", *sources, "--output", str(tmp_path / "p.parquet"))
    table = parquet.read_table(tmp_path / "p.parquet")
    assert table["label_1"].to_pylist() == ["blue", "red", "green"]
    assert table["probability_1"].type == "float"
    assert table.num_columns == 2 * 3 + 4  # of three classes, though five labels were asked for


def test_an_interrupted_run_goes_on(home: Path, images: Path, tmp_path: Path) -> None:
    """The rest is done, nothing twice, with the same labels; half a line is no line."""
    whole, output = tmp_path / "whole.csv", tmp_path / "p.csv"
    vgg19(home, "predict", str(images), "--output", str(whole))
    version = next((home / "models" / "vgg19").glob("2026*")).name
    with Progress(output, {"model": version, "variant": "float32", "top_k": 3}) as progress:
        for row in read(whole)[:9]:
            progress.add(Classified(row["file"], error="from before"))
    with (tmp_path / "p.csv.part").open("ab") as part:
        part.write(b'{"file": "half a li')
    said = vgg19(home, "predict", str(images), "--output", str(output))
    assert "going on: 9 of 21 are done" in said
    rows = read(output)
    assert [row["error"] for row in rows[:9]] == ["from before"] * 9
    assert rows[9:] == read(whole)[9:]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)]
)
def test_an_interruption_says_how_to_go_on(
    home: Path, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{n}.png\n" for n in range(400_000)))
    command = [
        sys.executable,
        "-m",
        "serving.offline.predict",
        str(tmp_path / "p.csv"),
        "1",
        "local",
        "0",
    ]
    process = subprocess.Popen(
        [*command, str(tmp_path / "list.csv")], cwd=ROOT, text=True,
        env=os.environ | {"BENTOML_HOME": str(home)},
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    part = tmp_path / "p.csv.part"
    while not part.exists() or part.stat().st_size < 10_000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=HANG_S)
    assert process.returncode == 128 + number
    again = "run the same command again to continue with"
    assert said == f"interrupted; {again} {tmp_path / 'p.csv'}\n"
    assert part.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "'nowhere' is neither a folder nor a file"),
        (["images", "--model", "latestt"], "no model vgg19:latestt"),
    ],
)
def test_mistakes_are_one_line(
    home: Path, images: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = run_command("vgg19", "predict", *arguments, cwd=tmp_path, home=home)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert said in result.stderr


def test_tables_that_cannot_be_written_are_told_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "there.csv").touch()
    with pytest.raises(PredictError, match="is there already"):
        check_output(tmp_path / "there.csv")
    with pytest.raises(PredictError, match=r"p\.txt must end in \.csv or \.parquet"):
        check_output(tmp_path / "p.txt")
    check_output(tmp_path / "p.parquet")


def test_sources_without_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("name\nx\n")
    with pytest.raises(PredictError, match=r"bad\.csv has no column 'path', it has name"):
        find_files([str(tmp_path / "bad.csv")])
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PredictError, match=r"binary\.csv can't be read as CSV"):
        find_files([str(tmp_path / "binary.csv")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(PredictError, match="no image files"):
        find_files([str(tmp_path / "empty")])


def test_lines_of_other_settings_are_not_gone_on_with(tmp_path: Path) -> None:
    output = tmp_path / "p.csv"
    with Progress(output, {"model": "a"}) as progress:
        progress.add(Classified("x.png"))
    with pytest.raises(PredictError, match="started with other settings"):
        Progress(output, {"model": "b"})
    with Progress(output, {"model": "a"}) as progress:
        assert progress.done == {"x.png"}


def test_the_columns() -> None:
    pairs = ["label_1", "probability_1", "label_2", "probability_2"]
    assert columns(2) == ["file", *pairs, "accepted", "distance", "error"]


def test_a_file_that_is_named_twice_is_classified_once(images: Path) -> None:
    files = find_files([str(images), str(images / "blue"), str(images / "red" / "0013.png")])
    assert len(files) == len(set(files)) == 21
