"""Whether a job begins, and with what."""

from __future__ import annotations

import pytest

from tests.training.redeploy.conftest import Place

pytestmark = pytest.mark.slow


def test_a_killed_job_is_given_up_when_its_images_have_changed(place: Place) -> None:
    place.run_command(kill="before:export")
    place.add(151, 300)
    assert place.run().exit_code == 0
    assert sorted(str(job.outcome) for job in place.jobs()) == ["given up", "promoted"]
    assert place.jobs()[0].outcome == "promoted"


def test_force_trains_although_nothing_is_new(place: Place) -> None:
    place.run()
    assert place.run(force=True).message.startswith(("production is", "vgg19:"))
    assert len(place.jobs()) == 2
