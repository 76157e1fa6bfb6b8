from __future__ import annotations

import hashlib
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from models.bundle.manifest import read_manifest
from models.bundle.writer import write_manifest
from models.errors import UserError
from models.imaging.image import DECODE_RULE
from models.network.build import build
from models.network.vgg19 import VGG19
from models.network.weights import imagenet_file
from models.registry import store
from testing.images import coloured_pixels, encode
from tests.training.loop.conftest import config
from training.data.decoding import decoding
from training.loop.checkpoint import weights_digest
from training.loop.recipe import fine_tune
from training.loop.reproduce import _recorded, default_output, input_differences, reproduce
from training.loop.run import Run, RunError, initial_weights_sha256, record_provenance
from training.reporter import SilentReporter

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("thin_network")
class TestReproduce:
    def test_the_same_inputs_give_the_same_weights_and_other_images_are_named(
        self, tmp_path: Path
    ) -> None:
        run = fine_tune(config(tmp_path, head_init="auto"), SilentReporter())
        same = reproduce(str(run.path), tmp_path / "again1", SilentReporter())
        assert same.identical
        assert same.differences == []
        assert weights_digest(Run(tmp_path / "again1").best) == weights_digest(run.best)

        (tmp_path / "data" / "red" / "new.png").write_bytes(encode(coloured_pixels(99, "red")))
        changed = reproduce(str(run.path), tmp_path / "again2", SilentReporter())
        assert not changed.identical
        (difference,) = changed.differences
        assert difference.startswith("data: the fingerprint is ")

    def test_convolutions_in_bf16_are_told_recorded_and_reproduced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On any processor: one without the instructions emulates them."""
        monkeypatch.setattr("training.loop.precision.cpu_computes_in_bf16", lambda: True)
        reporter = SilentReporter()
        run = fine_tune(config(tmp_path, strategy="full"), reporter)
        assert any("convolutions train in bf16" in line for line in reporter.messages[:3])
        assert run.read_json(run.provenance)["hardware"]["convolutions that train"] == "bf16"
        again = reproduce(str(run.path), tmp_path / "again", SilentReporter())
        assert again.identical
        assert again.differences == []

        changes = {"strategy": "full", "mixed_precision": "no", "output": tmp_path / "exact"}
        reporter = SilentReporter()
        exact = fine_tune(config(tmp_path, **changes), reporter)
        assert not any("train in bf16" in line for line in reporter.messages)
        assert "convolutions that train" not in exact.read_json(exact.provenance)["hardware"]
        assert weights_digest(exact.best) != weights_digest(run.best)

        monkeypatch.setattr("training.loop.precision.cpu_computes_in_bf16", lambda: False)
        other = reproduce(str(run.path), tmp_path / "other", SilentReporter())
        assert not other.identical
        assert other.differences == ["hardware: convolutions that train is as the rest, was bf16"]

    def test_frozen_convolutions_are_not_recorded_as_training(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("training.loop.precision.cpu_computes_in_bf16", lambda: True)
        run = fine_tune(config(tmp_path, strategy="fc"), SilentReporter())
        hardware = run.read_json(run.provenance)["hardware"]
        assert "convolutions that train" not in hardware
        assert hardware["frozen layers"] == "bf16"
        assert reproduce(str(run.path), tmp_path / "again", SilentReporter()).identical

    def test_without_bf16_that_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("training.loop.precision.cpu_computes_in_bf16", lambda: False)
        monkeypatch.setattr("training.loop.recipe.cpu_computes_in_bf16", lambda: False)
        reporter = SilentReporter()
        run = fine_tune(config(tmp_path, strategy="fc"), reporter)
        assert "computed in float32: this processor has neither" in " ".join(reporter.messages)
        assert "frozen layers" not in run.read_json(run.provenance)["hardware"]

    @pytest.mark.usefixtures("thin_network")
    @pytest.mark.parametrize("change", ["other", "gone"])
    def test_a_changed_file_of_weights_is_named(self, tmp_path: Path, change: str) -> None:
        path = tmp_path / "start.pth"
        torch.manual_seed(1)
        torch.save(build(VGG19, "none", num_classes=4).state_dict(), path)
        run = fine_tune(config(tmp_path, weights=str(path)), SilentReporter())
        assert reproduce(str(run.path), tmp_path / "again3", SilentReporter()).identical
        if change == "gone":
            path.unlink()
            with pytest.raises(UserError, match=f"--weights {path}: no such file"):
                reproduce(str(run.path), tmp_path / "again4", SilentReporter())
            return
        torch.manual_seed(2)
        torch.save(build(VGG19, "none", num_classes=4).state_dict(), path)
        changed = reproduce(str(run.path), tmp_path / "again5", SilentReporter())
        assert not changed.identical
        (difference,) = changed.differences
        assert re.fullmatch(
            f"weights: the SHA-256 of {path} is [0-9a-f]{{12}}, was [0-9a-f]{{12}}", difference
        )

    def test_the_hash_of_downloaded_weights_is_recorded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        assert initial_weights_sha256("vgg19", "imagenet") is None  # not downloaded yet
        imagenet_file(VGG19).parent.mkdir(parents=True)
        imagenet_file(VGG19).write_bytes(b"weights")
        recorded = record_provenance(config(tmp_path, weights="imagenet"), "f" * 64)
        assert recorded.initial_weights_sha256 == hashlib.sha256(b"weights").hexdigest()
        assert recorded.decoding == decoding()

    def test_runs_from_before_the_weights_hash_say_nothing_of_it(self, tmp_path: Path) -> None:
        recorded = record_provenance(config(tmp_path), "f" * 64)
        assert recorded.initial_weights_sha256 is None
        old = recorded.model_copy(update={"training_config": {"weights": "gone.pth"}})
        assert input_differences(old, "f" * 64) == []

    def test_versions_and_hardware_are_compared(self, tmp_path: Path) -> None:
        recorded = record_provenance(config(tmp_path), "f" * 64)
        assert input_differences(recorded, "f" * 64) == []
        other = recorded.model_copy(
            update={
                "packages": recorded.packages | {"torch": "1.0"},
                "hardware": recorded.hardware | {"threads": "64"},
                "decoding": recorded.decoding | {"rule": "0"},
            }
        )
        package, pixels, hardware = input_differences(other, "f" * 64)
        assert pixels == f"decoding: rule is {DECODE_RULE}, was 0"
        assert package == f"package torch: the version is {version('torch')}, was 1.0"
        assert hardware == f"hardware: threads is {torch.get_num_threads()}, was 64"

    def test_another_model_of_processor_is_named_where_it_was_recorded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorded = record_provenance(config(tmp_path), "f" * 64)
        here = recorded.hardware["processor model"]
        monkeypatch.setattr("training.loop.run.processor_model", lambda: "GenuineIntel 6/143, Xeon")
        (difference,) = input_differences(recorded, "f" * 64)
        assert difference == f"hardware: processor model is GenuineIntel 6/143, Xeon, was {here}"
        before = {k: v for k, v in recorded.hardware.items() if k != "processor model"}
        older = recorded.model_copy(update={"hardware": before})
        assert input_differences(older, "f" * 64) == []

    def test_a_registered_model_brings_what_it_was_trained_from(
        self, store_home: Path, tiny_bundle: Path
    ) -> None:
        tag = store.register(tiny_bundle)
        with pytest.raises(RunError, match="without the digest of its weights"):
            _recorded(tag)
        provenance = read_manifest(tiny_bundle).provenance
        write_manifest(tiny_bundle, provenance.model_copy(update={"weights_sha256": "a" * 64}))
        recorded, digest = _recorded(store.register(tiny_bundle))
        assert digest == "a" * 64
        assert recorded.training_config == provenance.training_config

    def test_the_new_run_has_a_place_of_its_own(self, tmp_path: Path) -> None:
        run = tmp_path / "runs" / "flowers"
        run.mkdir(parents=True)
        assert default_output(str(run)) == tmp_path / "runs" / "flowers-reproduced"
        assert default_output("vgg19:2026-1") == Path("vgg19-2026-1-reproduced")

    def test_no_such_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="is not a run"):
            reproduce(str(tmp_path), tmp_path / "again6", SilentReporter())
