"""Registered and signed, built, promoted, verified, and rolled back."""

from __future__ import annotations

import shutil
import signal
from typing import Any

import pytest

from cli import bento as building
from cli.bento import BuildError
from models.bundle.bundle import SIGNATURE_FILE
from models.bundle.signature import SignatureError, Verifier
from models.registry import store
from tests.keys import write_keys
from tests.training.redeploy.conftest import GATE, Place
from training.redeploy import job, promotion
from training.redeploy.outcome import REFUSED, ROLLED_BACK, RedeployError
from training.redeploy.smoke_test import SmokeTestError

pytestmark = pytest.mark.slow


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


def test_production_that_changed_meanwhile_is_left_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.run()
    place.add(151, 300)
    original = promotion.register

    def register_and_promote_another(*arguments: Any) -> dict[str, Any]:
        shutil.copytree(
            store.store_path() / "vgg19" / str(store.production_version()),
            store.store_path() / "vgg19" / "other",
        )
        store.promote("other", "by hand")
        return original(*arguments)

    monkeypatch.setattr(job, "register", register_and_promote_another)
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

        monkeypatch.setattr(promotion, "smoke_test", refuse)
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

        monkeypatch.setattr(promotion, "smoke_test", refuse)
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
