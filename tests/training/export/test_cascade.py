from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.bundle import open_bundle
from models.bundle.writer import write_manifest
from models.export.onnx_export import ExportError
from models.export.onnx_variants import Agreement, Form, Speed
from models.machine import sums_int8_exactly
from testing.bundles import provenance, tiny_spec
from testing.small_vgg import pixels, write_small_bundle
from training.export import cascade, variants
from training.export.cascade import HeldOut, Runner, Trial, find_margin, try_cascade
from training.export.images import Images
from training.export.judged import Judged
from training.export.variants import VariantJob
from training.loop.run import Run
from training.reporter import SilentReporter

FLOAT32, INT8, OPENVINO = (Form(Path(name)) for name in ("float32", "int8", "openvino"))
FAST, SLOW = Speed(0.5, 0.25, 0.25), Speed(0.5, 1.0, 1.0)


def near(gap: float) -> list[float]:
    """A row of two labels, the first of which is better by `gap`."""
    return [0.5 + gap / 2, 0.5 - gap / 2]


def answers(*gaps: float) -> NDArray[np.float32]:
    return np.array([near(gap) for gap in gaps], np.float32)


def blank(count: int) -> NDArray[np.uint8]:
    return np.zeros((count, 2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "expected"),
    [(1000, 0.25), (599, 0.25), (399, 0.5), (398, 0.75), (199, 0.75), (198, 1.0), (20, 1.0)],
)
def test_a_200th_of_the_images_may_move_beyond_the_margin_and_of_few_none(
    images: int, expected: float
) -> None:
    moved = np.zeros((2, images), np.float32)
    moved[1, 7], moved[0, 7] = 0.75, 0.1  # of an image, the engine that moves it further counts
    moved[0, 9], moved[0, 11:14] = 0.5, 0.25
    assert find_margin(moved) == expected


def test_of_few_it_is_one_at_most() -> None:
    assert find_margin(np.full((1, 20), 0.7, np.float32)) == 1.0


def test_of_few_others_half_of_the_judged_are_used_to_find_one() -> None:
    judged = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    many = HeldOut.of(judged[:50], judged)
    assert (len(many.finding), many.places.tolist()) == (50, list(range(100)))
    few = HeldOut.of(judged[:0], judged)
    assert few.places.tolist() == list(range(0, 100, 2))
    assert few.finding.ravel().tolist() == list(range(1, 100, 2))


Try = Callable[..., Trial | str]


@pytest.fixture
def attempt(monkeypatch: pytest.MonkeyPatch) -> Try:
    """Trials on 200 images whose two labels lie far apart, unless said otherwise, judged on 100;
    int8 moves them apart by 0.1 on ONNX Runtime, by 0.2 on OpenVINO."""

    def attempt(
        *, count: int = 200, gap: float = 0.8, again: NDArray[np.float32] | None = None,
        judged: NDArray[np.float32] | None = None, second: Speed = SLOW,
    ) -> Trial | str:  # fmt: skip
        found = {
            FLOAT32: answers(*[gap] * count),
            INT8: answers(*[gap + 0.1] * count),
            OPENVINO: answers(*[gap + 0.2] * count),
        }
        monkeypatch.setattr(cascade, "probabilities", lambda form, spec, images: found[form])
        expected = answers(*[0.8] * 100)
        rounded = expected if judged is None else judged
        return try_cascade(
            {
                "onnxruntime": Runner(INT8, FAST, Judged(rounded)),
                "openvino": Runner(OPENVINO, FAST, Judged(rounded)),
            },
            Runner(FLOAT32, second, Judged(expected if again is None else again)),
            "float32", Runner(FLOAT32, SLOW, Judged(expected)),
            HeldOut(blank(count), np.arange(100)), tiny_spec(), lambda step: None,
        )  # fmt: skip

    return attempt


def accepted(trial: Trial | str) -> Trial:
    assert isinstance(trial, Trial)
    assert not trial.refusal
    return trial


def test_one_margin_holds_for_all_engines(attempt: Try) -> None:
    found = accepted(attempt()).cascade
    assert found.margin == pytest.approx(0.2, abs=1e-6)
    assert (found.images, found.share) == (200, 0.0)
    assert found.cost == pytest.approx(0.25)


def test_labels_that_int8_changes_are_kept_by_the_second(attempt: Try) -> None:
    judged = answers(*[0.8] * 90, *[-0.1] * 10)
    trial = accepted(attempt(judged=judged))
    assert [one.top1 for one in trial.agreements.values()] == [1.0, 1.0]
    assert trial.cascade.share == pytest.approx(10 / 300)  # of those that it was found on, too
    again_s = trial.cascade.share * SLOW.batch1_s
    assert trial.speeds["openvino"].batch1_s == pytest.approx(FAST.batch1_s + again_s)
    assert trial.speeds["openvino"].batch8_s == pytest.approx(FAST.batch8_s + again_s)
    assert trial.cascade.cost == pytest.approx(0.25 + 10 / 300)
    assert "within 0.200 (found on 200 other held-out images): 3.3% of them" in trial.report()


def test_a_label_that_changes_beyond_the_margin_is_seen(attempt: Try) -> None:
    trial = attempt(judged=answers(*[0.8] * 99, -0.5))
    assert isinstance(trial, Trial)
    assert trial.refusal == (
        "with 0.0% of the images run again in float32 it keeps 99.0% of the labels, the limit is "
        "99.5%"
    )


def test_the_second_is_judged_as_well(attempt: Try) -> None:
    """bf16 may change a label, too."""
    judged = answers(*[0.8] * 90, *[0.1] * 10)
    trial = attempt(judged=judged, again=answers(*[0.8] * 90, *[-0.1] * 10))
    assert isinstance(trial, Trial)
    assert "it keeps 90.0% of the labels" in trial.refusal


def test_as_many_as_make_it_no_faster_are_refused(attempt: Try) -> None:
    """With 0.25 of float32's time, three quarters may run again."""
    most = accepted(
        attempt(
            judged=answers(
                *[0.1] * 100,
            ),
            gap=0.8,
        )
    )
    assert most.cascade.share == pytest.approx(100 / 300)
    trial = attempt(gap=-0.05, judged=answers(*[0.1] * 100))
    assert isinstance(trial, Trial)
    assert trial.refusal == (
        "100.0% of the images would run again in float32, which alone is as fast from 75.0% on"
    )
    quick = attempt(judged=answers(*[0.1] * 100), second=Speed(0.5, 0.3, 0.3))
    assert isinstance(quick, Trial)
    assert "33.3% of the images" in quick.refusal
    assert "from 16.7% on" in quick.refusal


def test_too_few_images_say_so(attempt: Try) -> None:
    assert attempt(count=49) == (
        "a margin needs 50 held-out images beside those that it is judged on; there are 49"
    )
    few = accepted(attempt(count=50))
    assert few.cascade.margin == pytest.approx(0.4, abs=1e-6)
    assert "fewer than 199 2 times the largest change" in few.report()


@pytest.mark.slow
@pytest.mark.skipif(not sums_int8_exactly(), reason="this processor has no VNNI")
class TestVariants:
    @pytest.fixture
    def bundle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """int8 seems to change labels, and to be as fast as with VGG-19."""
        images = Images(pixels(8, 100), pixels(30, 200), others=lambda: pixels(60, 400))
        monkeypatch.setattr(variants, "read_images", lambda run, spec, reporter: images)
        monkeypatch.setattr(variants, "compare", lambda a, b: Agreement(0.98, 0.3))

        def speeds(forms: dict[str, Form], spec: Any) -> dict[str, Speed]:
            return {name: FAST if name.startswith("int8") else SLOW for name in forms}

        monkeypatch.setattr(variants, "measure_speed", speeds)
        return tmp_path / "bundle"

    def make(self, bundle: Path, *wanted: str) -> VariantJob:
        spec, golden = write_small_bundle(bundle)
        job = VariantJob.of(Run(bundle.parent / "run"), wanted, SilentReporter())
        job(bundle, spec, golden)
        write_manifest(bundle, provenance())
        return job

    def test_int8_is_recorded_with_its_margin(self, bundle: Path) -> None:
        job = self.make(bundle, "int8")
        (int8,) = open_bundle(bundle).variants().variants
        assert int8.cascade is not None
        assert (int8.top1_agreement, int8.images) == (1.0, 30)
        assert (int8.cascade.second, int8.cascade.images) == ("float32", 60)
        assert 0 < int8.cascade.margin < 1
        assert 0 <= int8.cascade.share < 0.75
        titles = [row.title for row in job.rows]
        assert "int8, again in float32" in titles
        assert any("whose two best probabilities lie within" in line for line in job.report())

    def test_auto_recommends_it_by_its_whole_time(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = self.make(bundle, "auto")
        record = open_bundle(bundle).variants()
        assert record.recommended == "int8"
        assert "int8" in record.why
        assert "again in float32 takes" in record.why
        chosen = next(row for row in job.rows if row.again_in is not None)
        (int8,) = record.variants
        assert int8.cascade is not None
        assert chosen.speed.batch1_s == pytest.approx(0.25 + int8.cascade.share)

    def test_it_is_refused_with_the_reason(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cascade, "find_margin", lambda moved: 1.0)
        with pytest.raises(
            ExportError, match=r"30 .* 98\.0% of the labels.*100\.0% of the images would run again"
        ):
            self.make(bundle, "int8")

    def test_auto_leaves_it_out_with_the_reason(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cascade, "find_margin", lambda moved: 1.0)
        job = self.make(bundle, "auto")
        assert open_bundle(bundle).variants().find("int8") is None
        assert not (bundle / "model.int8.onnx").exists()
        assert any("of the images would run again" in line for line in job.report())
