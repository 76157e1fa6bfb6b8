from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.acceptance import Acceptance
from models.bundle.bundle import ACCEPTANCE_FILE, DISTANCE_FILE, MODEL_FILE, open_bundle
from models.bundle.openvino_graph import computes_in_bf16, openvino_is_installed
from models.bundle.spec import ModelSpec
from models.bundle.writer import write_manifest
from models.export import onnx_variants
from models.export.distance_graph import write_distance_graph
from models.export.onnx_export import ExportError
from models.export.onnx_variants import Agreement, Answers, Form, answers
from models.machine import sums_int8_exactly
from serving.engine.options import SessionOptions
from serving.engine.providers import CPU, GpuOptions, Precision
from serving.engine.session import Session, is_accepted
from testing.bundles import provenance
from testing.small_vgg import pixels, write_small_bundle
from training.evaluate.feature_statistics import fit, with_limit
from training.export import variants
from training.export.images import Images
from training.export.judged import Judged, Trust, compare, worst
from training.export.variants import VariantJob
from training.loop.run import Run
from training.reporter import SilentReporter

IMAGES = np.concatenate([pixels(20, 200), 255 - pixels(10, 300)])  # the latter are unlike any


def judged(
    probabilities: list[list[float]], distances: list[float], accepted: list[bool]
) -> Judged:
    return Judged(
        np.array(probabilities, np.float32), np.array(distances, np.float32), np.array(accepted)
    )


def test_agreement_is_of_labels_distances_and_what_is_accepted() -> None:
    first = judged([[0.9, 0.1], [0.6, 0.4]], [0.5, 0.98], [True, True])
    second = judged([[0.8, 0.2], [0.6, 0.4]], [0.5, 1.02], [True, False])
    found = compare(first, second)
    assert (found.top1, found.accepted) == (1.0, 0.5)
    assert found.max_probability_difference == pytest.approx(0.1)
    assert found.max_distance_difference == pytest.approx(0.04)
    far = compare(judged([[1, 0]], [20.0], [False]), judged([[1, 0]], [22.0], [False]))
    assert far.max_distance_difference == pytest.approx(0.1)
    bare = compare(Judged(first.probabilities), second)
    assert (bare.accepted, bare.max_distance_difference) == (None, None)


def test_what_ran_again_brings_its_distance_and_its_acceptance() -> None:
    first = judged([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], [0.1, 0.2, 0.3], [True, False, True])
    again = judged([[0.7, 0.3]], [0.9], [True])
    rows = np.array([False, True, False])
    merged = first.merged(again, rows)
    assert merged.distances is not None
    assert merged.distances.tolist() == pytest.approx([0.1, 0.9, 0.3])
    assert merged.accepted is not None
    assert merged.accepted.tolist() == [True, True, True]
    assert merged.probabilities[1].tolist() == pytest.approx([0.7, 0.3])


def test_on_several_engines_the_worst_of_each_figure_counts() -> None:
    one, other = Agreement(0.99, 0.1, 1.0, 0.3), Agreement(1.0, 0.2, 0.97, None)
    assert worst([one, other]) == Agreement(0.99, 0.2, 0.97, 0.3)
    assert worst([Agreement(1.0, 0.1)]) == Agreement(1.0, 0.1)


def test_a_bundle_without_acceptance_says_nothing_of_it(tmp_path: Path) -> None:
    found = Trust(tmp_path)(Answers(np.full((2, 2), 0.5, np.float32), None))
    assert (found.distances, found.accepted) == (None, None)


Make = Callable[..., tuple[Path, ModelSpec]]


@pytest.mark.slow
class TestBundle:
    @pytest.fixture
    def make(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
        """A bundle that accepts some answers, and variants of it, on images half of which are
        accepted."""
        images = Images(pixels(8, 100), IMAGES, others=lambda: pixels(60, 400))
        monkeypatch.setattr(variants, "read_images", lambda run, spec, reporter: images)
        monkeypatch.setattr(onnx_variants, "_PAUSE_S", 0)
        path = tmp_path / "bundle"

        def make(*wanted: str) -> tuple[Path, ModelSpec]:
            spec, golden = write_small_bundle(path)
            form = Form(path / MODEL_FILE)

            def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
                values = answers(form, spec, images).features
                assert values is not None
                return values

            statistics = fit(features(pixels(60)), np.arange(60) % 3, 3)
            statistics = with_limit(statistics, features(pixels(30, 100)))
            write_distance_graph(statistics, path / DISTANCE_FILE)
            confidences = answers(form, spec, IMAGES).probabilities.max(axis=1)
            middle = float(np.sort(confidences)[14:16].mean())
            Acceptance(target_precision=0.9, min_confidence=middle).write(path / ACCEPTANCE_FILE)
            VariantJob.of(Run(tmp_path / "run"), wanted, SilentReporter())(path, spec, golden)
            write_manifest(path, provenance())
            return path, spec

        return make

    def served(self, path: Path, precision: Precision) -> tuple[list[bool], list[float]]:
        options = SessionOptions([(CPU, {})], None, 1, 8, GpuOptions(precision), "openvino")
        bundle = open_bundle(path)
        outputs = Session(bundle, options).judge(list(IMAGES))
        accepted = [is_accepted(bundle.acceptance(), one) for one in outputs]
        return accepted, [one.distance or 0.0 for one in outputs]

    def test_float32_is_judged_as_it_is_served(self, make: Make) -> None:
        path, spec = make("fc8")
        found = Trust(path)(answers(Form(path / MODEL_FILE), spec, IMAGES))
        if openvino_is_installed():
            accepted, distances = self.served(path, "float32")
            assert found.accepted is not None
            assert found.accepted.tolist() == accepted
            assert found.distances is not None
            np.testing.assert_allclose(found.distances, distances, rtol=1e-4)
            assert {*accepted} == {True, False}
            assert max(distances) > 1 > min(distances)

    @pytest.mark.skipif(
        not (computes_in_bf16() and sums_int8_exactly()), reason="needs bfloat16 and VNNI"
    )
    @pytest.mark.parametrize(("name", "limit"), [("bf16", 0.03), ("int8", 0.3)])
    def test_bf16_and_int8_are_recorded_as_they_are_served(
        self, make: Make, name: str, limit: float
    ) -> None:
        path, spec = make(name)
        expected = Trust(path)(answers(Form(path / MODEL_FILE), spec, IMAGES))
        (variant,) = open_bundle(path).variants().variants
        accepted, distances = self.served(path, name)  # type: ignore[arg-type]
        assert expected.accepted is not None
        same = float((expected.accepted == np.array(accepted)).mean())
        assert variant.same_trust is not None
        assert variant.same_trust <= same
        assert variant.same_trust >= 0.9
        assert expected.distances is not None
        of_each = np.abs(expected.distances - distances) / np.maximum(expected.distances, 1)
        difference = float(of_each.max())
        assert variant.max_distance_difference is not None
        assert 0 < difference <= variant.max_distance_difference * 1.001
        assert variant.max_distance_difference <= limit

    @pytest.mark.parametrize("wanted", ["fc8", "auto"])
    def test_a_variant_that_trusts_other_answers_is_refused(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, wanted: str
    ) -> None:
        """All labels stay."""

        def other(expected: Judged, actual: Judged) -> Agreement:
            assert expected.accepted is not None
            refused = Judged(actual.probabilities, actual.distances, ~expected.accepted)
            return compare(expected, refused)

        monkeypatch.setattr(variants, "compare", other)
        if wanted == "auto":
            path, _ = make("auto")
            assert open_bundle(path).variants().variants == []
            return
        with pytest.raises(ExportError, match=r"fc8 trusts an answer as float32 does for 0\.0%"):
            make(wanted)
