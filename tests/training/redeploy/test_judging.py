"""Which held-out images judge a challenger."""

from __future__ import annotations

import json

import pytest

from models.registry import store
from tests.training.redeploy.conftest import LENIENT, Place
from training.redeploy import challenger
from training.redeploy.outcome import REFUSED
from training.reporter import SilentReporter

pytestmark = pytest.mark.slow


def test_held_out_images_are_unknown_to_both(place: Place) -> None:
    place.run()
    place.add(151, 300)
    place.run()
    for job in place.jobs():
        data = json.loads((job.path / "run" / "data.json").read_text())
        held_out = {f["sha256"] for f in data["files"] if f["split"] == "test"}
        assert held_out
        for model in store.list_models():
            seen = store.open_stored(model.version).seen()
            assert seen is not None
            assert not any(seen.trained(digest) for digest in held_out)


def test_what_the_champion_has_trained_on_does_not_judge(place: Place) -> None:
    """A champion that was trained elsewhere, by another split."""
    place.configure(test_fraction=0.1, val_fraction=0.1, gate=LENIENT | {"min_held_out": None})
    assert place.run().exit_code == 0
    place.configure(test_fraction=0.5, val_fraction=0.1)
    place.add(151, 300)
    reporter = SilentReporter()
    place.run(reporter)
    job = place.jobs()[0]
    data = json.loads((job.path / "run" / "data.json").read_text())
    held_out = [f for f in data["files"] if f["split"] == "test"]
    used = job.content["steps"]["gate"]["result"]["comparison"]["images"]
    assert 0 < used < len(held_out)
    assert any(
        f"{len(held_out) - used} of {len(held_out)} held-out images are not used" in message
        for message in reporter.messages
    )


def test_too_few_to_judge_is_known_before_training(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The champion has trained on most of what is held out now."""
    place.configure(test_fraction=0.1, val_fraction=0.1, gate=LENIENT | {"min_held_out": None})
    assert place.run().exit_code == 0
    champion = store.production_version()
    place.configure(test_fraction=0.5, val_fraction=0.1, gate=LENIENT | {"min_held_out": 40})
    place.add(151, 152)

    def train(*_: object, **__: object) -> None:
        pytest.fail("it trains")

    with monkeypatch.context() as patch:
        patch.setattr(challenger, "train", train)
        outcome = place.run()
    assert outcome.exit_code == REFUSED
    assert outcome.message.startswith("not trained: the champion was trained on ")
    assert "can judge, 40 are needed (gate.min_held_out); add images" in outcome.message
    assert len(place.jobs()) == 1
    assert store.production_version() == champion
    place.configure(test_fraction=0.5, val_fraction=0.1, gate=LENIENT | {"min_held_out": 5})
    assert place.run().exit_code == 0


def test_too_few_held_out_at_all(place: Place) -> None:
    place.configure(gate=LENIENT | {"min_held_out": 500})
    outcome = place.run()
    assert outcome.exit_code == REFUSED
    assert "can judge, 500 are needed" in outcome.message
    assert "champion" not in outcome.message
    assert place.jobs() == []
