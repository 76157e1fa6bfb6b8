"""Wrong labels among new images, with the learner of `tests.redeploy_stub` in VGG-19's place and a
thin VGG-19 of random weights that probes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from models.linear.predictions import doubt
from models.registry import store
from tests.training.redeploy.conftest import Place
from training.redeploy.job_state import JobState
from training.reporter import SilentReporter

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("thin_network")]


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as lines:
        return [*csv.DictReader(lines)]


def suspects(job: JobState) -> dict[str, Any]:
    found: dict[str, Any] = job.content["collected"]["suspects"]
    return found


def near_copies(job: JobState) -> int:
    """Left out, since they lie across splits."""
    return int(job.content["collected"]["left_out"])


@pytest.fixture
def known(place: Place) -> Place:
    """With a champion that knows 400 digits."""
    place.add(151, 400)
    assert place.run().exit_code == 0
    return place


def test_wrong_labels_are_put_aside_before_anything_is_trained(known: Place) -> None:
    known.configure(suspects="put-aside")
    known.add(400, 500)
    known.add(500, 520, poisoned=True)
    reporter = SilentReporter()
    assert known.run(reporter).exit_code == 0
    job = known.jobs()[0]
    found = suspects(job)
    assert (found["new"], found["doubt"], found["put_aside"]) == (120, None, True)
    names = {Path(row["file"]).stem for row in found["files"]}
    wrong = {name for name in names if int(name) >= 500}
    assert len(wrong) >= 15
    assert len(names - wrong) <= 3
    trained = {Path(row["path"]).stem for row in rows(job.path / "data.csv")}
    assert not names & trained
    assert len(trained) == 520 - len(names) - near_copies(job)
    assert [row["file"] for row in rows(job.path / "suspects.csv")] == [
        row["file"] for row in found["files"]
    ]
    said = f"{len(names)} of 120 new images have labels that the others contradict"
    assert said in reporter.warnings
    page = (job.path / "report.html").read_text()
    assert "they were put aside" in page

    assert known.run().message.startswith("nothing new: vgg19:")
    # A copy under another name is known by its content.
    first = Path(found["files"][0]["file"])
    shutil.copy(first, first.with_name("copy.png"))
    assert known.run().message.startswith("nothing new: vgg19:")

    trusted = known.path / "trusted.csv"
    shutil.copy(job.path / "suspects.csv", trusted)
    known.configure(suspects="put-aside", trusted=str(trusted))
    assert "put aside" not in known.run().message
    again = known.jobs()[0]
    assert len(rows(again.path / "data.csv")) == 520 - near_copies(again)
    assert suspects(again)["files"] == []


@pytest.mark.exhaustive
def test_nothing_but_wrong_labels_is_nothing_new(known: Place) -> None:
    champion = store.production_version()
    known.configure(suspects="put-aside")
    known.add(503, 505, poisoned=True)
    outcome = known.run()
    assert outcome.exit_code == 0
    assert outcome.message == "nothing new: 2 new images are put aside, and the others are old"
    assert store.production_version() == champion
    assert len(known.jobs()) == 1


@pytest.mark.exhaustive
def test_reported_they_are_trained_on_all_the_same(known: Place) -> None:
    known.configure(suspects="report")
    known.add(500, 520, poisoned=True)
    known.run()
    job = known.jobs()[0]
    assert len(suspects(job)["files"]) >= 15
    assert len(rows(job.path / "data.csv")) == 420 - near_copies(job)
    assert "they were trained on all the same" in (job.path / "report.html").read_text()


@pytest.mark.exhaustive
def test_where_labels_cannot_be_predicted_none_is_put_aside(
    known: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies: list[float] = []

    def doubtful(predictions: Any) -> str:
        accuracies.append(predictions.accuracy)
        assert doubt(predictions) is None
        return "hard"

    monkeypatch.setattr("training.redeploy.suspects.doubt", doubtful)
    known.configure(suspects="put-aside")
    known.add(400, 440, poisoned=True)
    reporter = SilentReporter()
    known.run(reporter)
    assert "none is put aside: only hard" in reporter.warnings
    job = known.jobs()[0]
    assert len(rows(job.path / "data.csv")) == 440 - near_copies(job)
    assert accuracies[0] > 0.85  # of the known images: all together would be 10 points less


def test_old_images_are_not_looked_at(known: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        pytest.fail("it probes")

    monkeypatch.setattr("training.redeploy.suspects.probe", fail)
    known.configure(suspects="put-aside")
    known.run(force=True)
    assert json.loads((known.jobs()[0].path / "job.json").read_text())["outcome"] is not None
    assert suspects(known.jobs()[0])["new"] == 0
