"""The whole job, with the learner of `tests.redeploy_stub` in VGG-19's place."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.errors import StoreError
from models.events.config import default_queue
from models.events.outbox import Outbox
from models.monitoring.comparison import Comparison
from models.monitoring.shadow_rule import ShadowRule
from models.registry import shadowing, store
from models.registry.tallies import ShadowTally, write_tally
from testing.bundles import write_tiny_bundle
from testing.waiting import HANG_S
from tests.training.redeploy.conftest import GATE, LENIENT, Place
from training.redeploy.outcome import IN_SHADOW, REFUSED, Outcome, RedeployError
from training.reporter import SilentReporter

pytestmark = pytest.mark.slow

STEPS = ("train", "export", "gate", "register", "promote", "verify")


def test_the_first_model_a_better_one_a_poisoned_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG19_EVENTS_URL", "https://hooks.example.org/")
    monkeypatch.setenv("VGG19_EVENTS_KEY_FILE", "events.key")
    place.configure(gate=GATE)
    first = place.run()
    assert first.exit_code == 0
    champion = store.production_version()
    assert first.message == f"production is vgg19:{champion}"
    again = place.run()
    assert again == Outcome(0, f"nothing new: vgg19:{champion} was trained on these images")

    place.add(151, 900)
    better = place.run()
    assert better.exit_code == 0, better.message
    version = store.production_version()
    assert better.message == f"production is vgg19:{version}, it was vgg19:{champion}"
    comparison = place.jobs()[0].content["steps"]["gate"]["result"]["comparison"]
    assert comparison["accuracy_difference"] > 0
    assert comparison["images"] > 250
    why = store.promotions()[0].why
    assert why.startswith(f"redeploy job {place.jobs()[0].id}: accuracy ")

    place.add(900, 1500, poisoned=True)
    poisoned = place.run()
    assert poisoned.exit_code == REFUSED
    assert "images of the previous holdout: -0." in poisoned.message
    assert poisoned.message.endswith("production is untouched")
    assert store.production_version() == version
    refused = next(m for m in store.list_models() if m.labels.get("status") == "rejected")
    assert "images of the previous holdout" in str(refused.metadata["rejected"])
    assert store.resolve("latest") == version
    queued = [json.loads(path.read_bytes()) for path in Outbox(default_queue()).waiting()]
    assert [event["type"].removeprefix("vgg19.model.") for event in queued] == [
        "registered", "promoted", "registered", "promoted", "registered", "refused",
    ]  # fmt: skip
    assert queued[-1]["subject"] == refused.tag
    assert queued[-1]["data"]["why"] == refused.metadata["rejected"]
    assert {(rule["passed"], "measured" in rule) for rule in queued[-1]["data"]["gate"]} == {
        (False, True), (True, True),
    }  # fmt: skip
    nothing = place.run()
    assert nothing.exit_code == 0
    assert nothing.message.startswith(f"nothing new: job {place.jobs()[0].id} tried these images")

    assert store.rollback() == f"vgg19:{champion}"
    assert [p.version for p in store.promotions()] == [champion, version, champion]


def test_old_jobs_are_removed_but_never_that_of_production(place: Place) -> None:
    place.configure(keep_jobs=2)
    assert place.run().exit_code == 0
    first = place.jobs()[0].id
    place.configure(keep_jobs=2, gate=LENIENT | {"min_accuracy": 1.0})
    for last in (160, 170, 180, 190):
        place.add(last - 10, last)
        assert place.run().exit_code == REFUSED
    jobs = [job.id for job in place.jobs()]
    assert len(jobs) == 3
    assert jobs[-1] == first
    folders = {path.name for path in (place.path / "state" / "jobs").iterdir()}
    assert folders == set(jobs)
    place.configure(keep_jobs=2)
    place.add(190, 200)
    assert place.run().exit_code == 0  # another production: the first may go
    assert first not in {job.id for job in place.jobs()}
    assert len(place.jobs()) == 2


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "step",
    [
        step if step in ("train", "promote") else pytest.param(step, marks=pytest.mark.exhaustive)
        for step in STEPS
    ],
)
def test_killed_at_a_step_and_run_again_comes_to_the_same(
    place: Place, step: str, moment: str
) -> None:
    place.run()
    champion = store.production_version()
    place.add(151, 200)
    killed = place.run_command(kill=f"{moment}:{step}")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert store.production_version() == champion or step in ("promote", "verify")
    went_on = place.run_command()
    assert went_on.returncode == 0, went_on.stderr
    version = store.production_version()
    assert version != champion
    assert f"production is vgg19:{version}" in went_on.stdout
    assert [p.version for p in store.promotions()] == [version, champion]  # promoted once
    assert len(store.list_models()) == 2  # registered once
    assert [job.outcome for job in place.jobs()] == ["promoted", "promoted"]
    assert not list((place.path / "state" / "jobs").glob(".*"))
    nothing = place.run_command()
    assert (nothing.returncode, nothing.stdout.startswith("nothing new")) == (0, True)


def test_two_jobs_at_once(place: Place) -> None:
    """The second refuses or waits; the lock of one that was killed is free."""
    place.run_command(kill="before:train")
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    lock = place.path / "state" / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        first.stdout.readline()
        end = first.stdin.close

        class EndsTheFirst(SilentReporter):
            def say(self, text: str) -> None:
                if "waiting for it to finish" in text:
                    end()

        with pytest.raises(RedeployError, match="another job is running"):
            place.run()
        assert first.poll() is None
        assert place.run(EndsTheFirst(), wait=True).exit_code == 0
        assert first.wait(timeout=HANG_S) == 0


def test_the_report_shows_both(place: Place) -> None:
    place.run()
    place.add(151, 300)
    place.run()
    job = place.jobs()[0]
    page = (job.path / "report.html").read_text()
    assert "accuracy of the champion" in page
    disagreements = job.content["steps"]["gate"]["result"]["disagreements"]
    assert page.count("<figure>") == min(48, len(disagreements)) > 0
    assert "data:image/png;base64," in page
    assert json.loads((job.path / "report.json").read_text())["outcome"] == "promoted"
    first = place.jobs()[1]
    assert "champion none" in (first.path / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gates": {}}, "unknown config key 'gates'; the keys are data, "),
        ({"gate": {"max_drop": 1}}, "unknown config key 'gate.max_drop'"),
        ({"train": {"data": "x"}}, "train.data is decided by the job"),
        ({"train": {"epochs": 0}}, "train: epochs is 0, it should be greater"),
        ({"val_fraction": 0.7}, "leave nothing to train on"),
        ({"data": []}, "data is"),
        ({"image": "vgg19"}, "image needs build"),
    ],
)
def test_a_wrong_configuration_is_told_at_once(
    place: Place, changes: dict[str, Any], words: str
) -> None:
    place.configure(**changes)
    result = place.run_command()
    assert result.returncode == 1
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def shown(shadow: str, counts: Comparison) -> None:
    tally = ShadowTally(worker="w", comparison=counts).model_dump_json()
    write_tally(shadowing.directory(), shadow, "w", tally)


def test_a_challenger_waits_in_the_shadow_until_its_rule_holds(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG19_EVENTS_URL", "https://hooks.example.org/")
    monkeypatch.setenv("VGG19_EVENTS_KEY_FILE", "events.key")
    place.run()
    champion = store.production_version()
    rule = {"min_images": 10, "min_hours": 0, "max_latency_ratio": None}
    place.configure(shadow=rule)
    place.add(151, 300)
    for _ in range(2):  # a look that is too early changes nothing
        outcome = place.run()
        assert outcome.exit_code == IN_SHADOW, outcome.message
        assert "is in production's shadow: images in the shadow: 0" in outcome.message
        assert store.production_version() == champion
    shadow = shadowing.current_shadow()
    assert shadow is not None
    assert len(shadowing.rollouts().events()) == 1
    shown(shadow.id, Comparison(images=10, agreed=3))
    refused = place.run()
    assert refused.exit_code == REFUSED
    assert "agreement: 0.300, must be 0.800 or more" in refused.message
    assert shadowing.current_shadow() is None
    assert store.production_version() == champion
    queued = [json.loads(path.read_bytes()) for path in Outbox(default_queue()).waiting()]
    assert queued[-1]["type"] == "vgg19.model.refused"
    assert "agreement: 0.300" in queued[-1]["data"]["why"]
    assert {one["rule"]: one["passed"] for one in queued[-1]["data"]["shadow"]} == {
        "images in the shadow": True, "hours in the shadow": True, "agreement": False,
        "images not answered": True,
    }  # fmt: skip

    place.add(300, 400)
    assert place.run().exit_code == IN_SHADOW
    shadow = shadowing.current_shadow()
    assert shadow is not None
    shown(shadow.id, Comparison(images=10, agreed=9))
    assert place.run().exit_code == 0
    assert store.production_version() == shadow.version


def test_another_shadow_is_told_before_the_training(place: Place, tmp_path: Path) -> None:
    place.run()
    place.configure(shadow={"min_images": 10, "min_hours": 0, "max_latency_ratio": None})
    place.add(151, 300)
    other = store.register(write_tiny_bundle(tmp_path / "other"))
    shadow = shadowing.start_shadow(other, ShadowRule())
    with pytest.raises(StoreError, match=f"a shadow of {shadow.version} runs already; end it"):
        place.run()
    assert sum("train" in job.content["steps"] for job in place.jobs()) == 1
    assert shadowing.current_shadow() == shadow
    shadowing.stop_shadow()
    assert place.run().exit_code == IN_SHADOW
