from __future__ import annotations

from pathlib import Path

import pytest

from testing.images import write_image_folder
from training.data.listing import DataError
from training.evaluate.evaluation import evaluate_run
from training.loop.config_file import load_config
from training.loop.recipe import fine_tune
from training.loop.run import Run
from training.reporter import SilentReporter

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path, thin_network: None) -> Run:
    """Trained on a table with columns of its own."""
    root = write_image_folder(tmp_path / "data", {"blue": 8, "red": 8})
    rows = [f"{file},{file.parent.name}" for file in sorted(root.rglob("*.png"))]
    (root / "x.csv").write_text("\n".join(["file,species", *rows]))
    values = {
        "data": root / "x.csv", "output": tmp_path / "run", "weights": "none", "strategy": "head",
        "image_size": 32, "epochs": 1, "label_column": "species", "image_column": "file",
        "split_by": "exact",
    }  # fmt: skip
    return fine_tune(load_config(None, values), SilentReporter())


def test_the_test_split_is_judged_and_said(run: Run, tmp_path: Path) -> None:
    write_image_folder(tmp_path / "new" / "Train", {"blue": 5, "red": 5}, first_seed=100)
    write_image_folder(tmp_path / "new" / "Holdout", {"blue": 2, "red": 1}, first_seed=200)
    reporter = SilentReporter()
    metrics, source = evaluate_run(run.path, tmp_path / "new", reporter)
    assert metrics["images"] == 3
    assert source == f"the test split (without 10 of train) of {tmp_path / 'new'}"
    assert reporter.warnings == []


def test_without_data_it_is_the_runs_own(run: Run) -> None:
    metrics, source = evaluate_run(run.path, None, SilentReporter())
    assert (metrics["images"], source) == (2, "the run's test split")


def test_columns_are_the_runs_unless_given(run: Run, tmp_path: Path) -> None:
    file = write_image_folder(tmp_path / "new", {"red": 1}, first_seed=300) / "red" / "0300.png"
    (tmp_path / "same.csv").write_text(f"file,species\n{file},red\n")
    (tmp_path / "other.csv").write_text(f"image,kind,part\n{file},red,final\n")
    assert evaluate_run(run.path, tmp_path / "same.csv", SilentReporter())[0]["images"] == 1
    with pytest.raises(DataError, match="has no column 'file'"):
        evaluate_run(run.path, tmp_path / "other.csv", SilentReporter())
    metrics, source = evaluate_run(
        run.path, tmp_path / "other.csv", SilentReporter(),
        columns={"label_column": "kind", "image_column": "image", "split_column": "part",
                 "split_names": {"final": "test"}},
    )  # fmt: skip
    assert metrics["images"] == 1
    assert source.startswith("the test split of")


def test_images_that_were_trained_on_are_counted(run: Run, tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "again", {"blue": 8, "red": 8})
    reporter = SilentReporter()
    evaluate_run(run.path, root, reporter)
    (warning,) = reporter.warnings
    assert warning.startswith("the run was trained or validated on 14 of these 16 images, so ")
