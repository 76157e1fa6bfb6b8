"""The job, with the learner of `tests.redeploy_stub` in VGG-19's place."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from cli import bento as building
from cli.bento import BuildError
from models.bundle.bundle import SIGNATURE_FILE
from models.bundle.signature import SignatureError, Verifier
from models.events.config import default_queue
from models.events.outbox import Outbox
from models.monitoring.comparison import Comparison
from models.registry import shadowing, store
from models.registry.tallies import ShadowTally, write_tally
from tests import redeploy_stub
from tests.keys import write_keys
from training.redeploy import job as job_module
from training.redeploy.config import load_redeploy_config
from training.redeploy.job import IN_SHADOW, REFUSED, ROLLED_BACK, Builder, Outcome, RedeployError
from training.redeploy.job_state import JobState, finished_jobs
from training.redeploy.smoke_test import SmokeTestError
from training.reporter import SilentReporter

pytestmark = pytest.mark.slow

# The stub's softmax isn't calibrated, and times of a loaded machine say nothing.
GATE = {
    "min_held_out": 20,
    "max_calibration_error": None,
    "max_latency_ratio": None,
    "min_interval_low": -0.2,
}
LENIENT = GATE | {
    "min_difference": -1,
    "min_known_difference": None,
    "max_class_drop": None,
    "significance": None,
}
STEPS = ("train", "export", "gate", "register", "promote", "verify")


def write_digits(root: Path, first: int, last: int, *, poisoned: bool = False) -> None:
    digits = load_digits()
    labels = digits.target[first:last]
    if poisoned:  # every 0 is said to be a 1, and so on: worse than chance
        labels = (labels + 1) % 10
    for number, label in zip(range(first, last), labels, strict=True):
        path = root / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(digits.images[number] * 15.9).astype(np.uint8)).save(path)


class Place:
    """A folder with images and a configuration, and a store."""

    def __init__(self, path: Path, home: Path) -> None:
        self.path, self.home = path, home
        self.builder: Builder = building
        write_digits(path / "base", 0, 150)
        write_digits(path / "new", 150, 151)
        self.configure()

    def configure(self, **changes: Any) -> None:
        train = {"weights": "none", "strategy": "full", "image_size": 32, "resize_size": 32}
        config = {
            "data": [str(self.path / "base"), str(self.path / "new")],
            "state": str(self.path / "state"),
            "train": train,
            "test_fraction": 0.4,
            "gate": LENIENT,
            "suspects": "off",
        }
        text = yaml.safe_dump(config | changes)
        (self.path / "redeploy.yaml").write_text(text)

    def add(self, first: int, last: int, *, poisoned: bool = False) -> None:
        write_digits(self.path / "new", first, last, poisoned=poisoned)

    def run(self, reporter: SilentReporter | None = None, **options: bool) -> Outcome:
        config = load_redeploy_config(self.path / "redeploy.yaml")
        return job_module.redeploy(config, reporter or SilentReporter(), self.builder, **options)

    def run_command(self, kill: str = "") -> redeploy_stub.Result:
        """As a process of its own, which may be killed."""
        return redeploy_stub.run(self.path / "redeploy.yaml", self.home, self.path / "out", kill)

    def jobs(self) -> list[JobState]:
        return finished_jobs(self.path / "state")


@pytest.fixture
def place(tmp_path: Path, store_home: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(job_module, "train", redeploy_stub.fine_tune)
    monkeypatch.setattr(job_module, "export_run", redeploy_stub.export_run)
    return Place(tmp_path, store_home)


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
        patch.setattr(job_module, "train", train)
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


def test_a_killed_job_is_given_up_when_its_images_have_changed(place: Place) -> None:
    place.run_command(kill="before:export")
    place.add(151, 300)
    assert place.run().exit_code == 0
    assert sorted(str(job.outcome) for job in place.jobs()) == ["given up", "promoted"]
    assert place.jobs()[0].outcome == "promoted"


def test_production_that_changed_meanwhile_is_left_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.run()
    place.add(151, 300)
    original = job_module._register

    def register_and_promote_another(*arguments: Any) -> dict[str, Any]:
        shutil.copytree(
            store.store_path() / "vgg19" / str(store.production_version()),
            store.store_path() / "vgg19" / "other",
        )
        store.promote("other", "by hand")
        return original(*arguments)

    monkeypatch.setattr(job_module, "_register", register_and_promote_another)
    with pytest.raises(RedeployError, match="production became vgg19:other"):
        place.run()
    assert store.production_version() == "other"


class TestAServiceThatDoesNotTakeItUp:
    def services(self, place: Place) -> None:
        place.configure(services=[{"http": "http://127.0.0.1:9"}])

    def test_it_is_rolled_back(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        place.run()
        champion = store.production_version()
        asked: list[str] = []

        def refuse(service: Any, bundle: Any, version: str, timeout_s: float) -> None:
            asked.append(version)
            if version != champion:
                raise SmokeTestError("it answers nonsense")

        monkeypatch.setattr(job_module, "smoke_test", refuse)
        self.services(place)
        place.add(151, 300)
        outcome = place.run()
        assert outcome.exit_code == ROLLED_BACK
        assert "failed: it answers nonsense; rolled back to" in outcome.message
        assert store.production_version() == champion
        assert asked[1:] == [champion]  # and it is looked whether they are back
        assert store.promotions()[0].why.endswith(": it answers nonsense")
        assert place.run().message.startswith("nothing new: job")

    def test_the_first_model_has_nothing_to_go_back_to(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise SmokeTestError("no answer")

        monkeypatch.setattr(job_module, "smoke_test", refuse)
        self.services(place)
        outcome = place.run()
        assert outcome.exit_code == ROLLED_BACK
        assert outcome.message.endswith("there is no earlier model to go back to")

    @pytest.mark.parametrize(
        "kill", ["before:rollback", pytest.param("after:rollback", marks=pytest.mark.exhaustive)]
    )
    def test_killed_around_the_rollback_it_goes_back_once(self, place: Place, kill: str) -> None:
        for last in (200, 250):  # two champions, so that going back twice would show
            place.add(151, last)
            assert place.run().exit_code == 0
        champion = store.production_version()
        services = [{"http": "http://127.0.0.1:9"}]
        place.configure(services=services, service_timeout_s=0.1)
        place.add(250, 300)
        assert place.run_command(kill=kill).returncode == -signal.SIGKILL
        went_on = place.run_command()
        assert went_on.returncode == ROLLED_BACK, went_on.stderr
        assert store.production_version() == champion


class TestImmutableDeployments:
    def test_a_bento_and_an_image_are_made_before_the_promotion(self, place: Place) -> None:
        made: list[tuple[str, ...]] = []

        class Noting:
            def build(self, reference: str, flavour: str) -> str:
                assert store.production_version() is None
                made.append((reference, flavour))
                return f"vgg19:{reference}-{flavour}"

            def containerize(self, bento: str, image: str, backend: str) -> None:
                made.append((bento, image, backend))

        place.builder = Noting()
        place.configure(build="gpu", image="registry/vgg19", image_backend="buildah")
        assert place.run().exit_code == 0
        version = str(store.production_version())
        assert made == [
            (version, "gpu"),
            (f"vgg19:{version}-gpu", f"registry/vgg19:{version}-gpu", "buildah"),
        ]

    def test_what_cannot_be_made_is_not_promoted(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(building, "build", lambda *_: "vgg19:no-such-bento")
        place.configure(build="cpu", image="vgg19", image_backend="buildah")
        with pytest.raises(BuildError, match="can't be made with buildah: "):
            place.run()
        assert store.production_version() is None
        assert len(store.list_models()) == 1  # it goes on here


class TestSigning:
    def test_what_is_accepted_is_signed(self, place: Place) -> None:
        private, public = write_keys(place.path)
        place.configure(sign_key=str(private))
        place.run()
        store.inspect_stored(store.resolve("production"), Verifier(public).check)

    def test_what_is_refused_is_not(self, place: Place) -> None:
        private, _ = write_keys(place.path)
        place.configure(sign_key=str(private), gate=GATE | {"min_accuracy": 1.0})
        assert place.run().exit_code == REFUSED
        (refused,) = store.list_models()
        assert not (store.stored_path(refused.version) / SIGNATURE_FILE).exists()

    def test_a_key_that_cannot_sign_is_told_before_anything_is_done(self, place: Place) -> None:
        place.configure(sign_key=str(place.path / "none.pem"))
        with pytest.raises(SignatureError, match=r"none\.pem can't be read"):
            place.run()
        assert not (place.path / "state").exists()


def test_two_jobs_at_once(place: Place) -> None:
    """The second refuses or waits; the lock of one that was killed is free."""
    place.run_command(kill="before:train")
    script = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('locked', flush=True); time.sleep(2)"
    )
    lock = place.path / "state" / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with pytest.raises(RedeployError, match="another job is running"):
            place.run()
        assert first.poll() is None
        assert place.run(wait=True).exit_code == 0
        assert first.poll() is not None or first.wait(timeout=10) == 0


def test_force_trains_although_nothing_is_new(place: Place) -> None:
    place.run()
    assert place.run(force=True).message.startswith(("production is", "vgg19:"))
    assert len(place.jobs()) == 2


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


def test_a_challenger_waits_in_the_shadow_until_its_rule_holds(place: Place) -> None:
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

    place.add(300, 400)
    assert place.run().exit_code == IN_SHADOW
    shadow = shadowing.current_shadow()
    assert shadow is not None
    shown(shadow.id, Comparison(images=10, agreed=9))
    assert place.run().exit_code == 0
    assert store.production_version() == shadow.version
