from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from models.bundle.bundle import MODEL_FILE, WEIGHTS_FILE, Bundle, inspect_bundle, open_bundle
from models.bundle.cascade import Cascade
from models.bundle.variants import VARIANTS_FILE, Variant, VariantName, Variants
from models.bundle.writer import write_manifest
from models.errors import UserError
from models.export.onnx_variants import make_variant
from serving.engine.cascade import CascadeEngine
from serving.engine.choice import Choice, Machine, choose_variant, with_second
from serving.engine.fastest import candidates, fastest
from serving.engine.options import SessionOptions
from serving.engine.providers import CPU, GpuOptions
from serving.engine.session import Session, checked_session
from testing.bundles import provenance
from testing.small_vgg import pixels, write_small_bundle

FULL = Machine(lambda: True, lambda: True, lambda: True)


class Stub:
    """Answers an image with what its first value says of it."""

    provider = "stub"

    def __init__(self, table: dict[int, list[float]], mark: float) -> None:
        self._table, self._mark = table, mark
        self.batches: list[list[int]] = []
        self.options: list[ort.RunOptions | None] = []

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], options: ort.RunOptions | None = None
    ) -> list[NDArray[np.float32]]:
        names = [int(image[0, 0, 0]) for image in images]
        self.batches.append(names)
        self.options.append(options)
        features = [[self._mark, name] for name in names]
        table = [self._table[name] for name in names]
        return [np.array(table, np.float32), np.array(features, np.float32)]


SURE, UNSURE, NAN = [0.9, 0.1], [0.45, 0.55], [np.nan, np.nan]
SECOND = {name: [name / 10, 1 - name / 10] for name in range(5)}


def images(*names: int) -> list[NDArray[np.uint8]]:
    return [np.full((2, 2, 3), name, np.uint8) for name in names]


@pytest.mark.parametrize(
    ("answers", "again"),
    [
        ([SURE, SURE, SURE], []),
        ([UNSURE, SURE, UNSURE], [[4, 2]]),
        ([UNSURE, UNSURE, UNSURE], [[4, 1, 2]]),
        ([SURE, NAN, SURE], [[1]]),
        ([NAN, UNSURE, NAN], [[4, 1, 2]]),
    ],
)
def test_whole_answers_come_from_the_second_in_their_order(
    answers: list[list[float]], again: list[list[int]]
) -> None:
    names = (4, 1, 2)
    first = Stub(dict(zip(names, answers, strict=True)), mark=1)
    second = Stub(SECOND, mark=2)
    engine = CascadeEngine(first, second, margin=0.2)
    options = ort.RunOptions()
    probabilities, features = engine(images(*names), options)
    assert (first.batches, second.batches) == ([list(names)], again)
    asked = again[0] if again else []
    expected = [SECOND[n] if n in asked else a for n, a in zip(names, answers, strict=True)]
    np.testing.assert_array_equal(probabilities, np.array(expected, np.float32))
    marks = [[2 if name in asked else 1, name] for name in names]
    np.testing.assert_array_equal(features, np.array(marks, np.float32))
    assert engine.rerun_images == len(asked)
    assert {*first.options, *second.options} == {options}  # which can end either


def test_images_that_ran_again_are_counted_over_batches() -> None:
    engine = CascadeEngine(Stub({1: SURE, 2: UNSURE}, 1), Stub(SECOND, 2), margin=0.2)
    for batch in ((1,), (2, 2), (1, 2)):
        engine(images(*batch))
    assert engine.rerun_images == 3


def test_what_the_second_cannot_tell_either_stays_as_it_says() -> None:
    engine = CascadeEngine(Stub({1: NAN}, 1), Stub({1: NAN}, 2), margin=0.2)
    assert np.isnan(engine(images(1))[0]).all()


CASCADE = Cascade(margin=0.1, second="bf16", images=200, share=0.05, cost=0.3)


def variant(name: VariantName, **changes: Any) -> Variant:
    fields: dict[str, Any] = {
        "name": name, "size_bytes": 1, "images": 200, "top1_agreement": 1.0,
        "max_probability_difference": 0.0, "tolerance": 0.5,
    }  # fmt: skip
    return Variant(**(fields | changes))


INT8 = variant("int8", needs_vnni=True, cascade=CASCADE)
BF16 = variant("bf16")


def told(choice: Choice | None) -> tuple[str, str | None] | None:
    if choice is None:
        return None
    return choice.variant.name if choice.variant else "float32", choice.engine


@pytest.mark.parametrize("precision", ["int8", "auto"])
@pytest.mark.parametrize(
    ("engine", "has", "found", "expected"),
    [
        ("onnxruntime", "openvino bf16", [INT8, BF16], ("bf16", "openvino")),
        ("openvino", "openvino bf16", [INT8, BF16], ("bf16", "openvino")),
        ("openvino", "openvino", [INT8, BF16], ("float32", "onnxruntime")),
        ("onnxruntime", "", [INT8, BF16], ("float32", "onnxruntime")),
        ("onnxruntime", "openvino bf16", [INT8], ("float32", "onnxruntime")),
        ("onnxruntime", "openvino bf16", [variant("int8"), BF16], None),
    ],
)
def test_what_runs_again(
    precision: Any, engine: Any, has: str, found: list[Variant], expected: Any
) -> None:
    machine = Machine(lambda: "openvino" in has, lambda: "bf16" in has, lambda: True)
    record = Variants(variants=found, recommended="int8", engine=engine)
    choice = choose_variant(GpuOptions(precision=precision), record, engine, machine)
    assert told(choice) == ("int8", engine)
    assert told(choice.second) == expected


def test_on_a_gpu_float32_runs_again() -> None:
    choice = choose_variant(GpuOptions(precision="int8"), Variants(variants=[INT8]), None, FULL)
    assert told(choice) == ("int8", None)
    assert told(choice.second) == ("float32", None)


def test_float32_and_variants_without_a_margin_run_once() -> None:
    record = Variants(variants=[variant("fc8"), INT8])
    for choice in (Choice(None, "onnxruntime"), Choice(record.find("fc8"), "onnxruntime")):
        assert with_second(choice, record, FULL) == choice


def test_it_is_a_candidate_with_its_second_run() -> None:
    found = candidates(Variants(variants=[INT8, BF16]), "onnxruntime", FULL)
    int8 = [one for one in found if one.variant is INT8]
    assert [told(one.second) for one in int8] == [("bf16", "openvino")] * len(int8)
    assert int8


def test_variants_without_a_cascade_are_written_as_before() -> None:
    """A service from before cascades refuses a key that it doesn't know."""
    assert "cascade" not in json.loads(Variants(variants=[variant("int8")]).model_dump_json())
    (written,) = json.loads(Variants(variants=[variant("int8")]).model_dump_json())["variants"]
    assert "cascade" not in written
    assert Variants.model_validate({"variants": [written]}).variants[0].cascade is None


@pytest.mark.slow
class TestSession:
    """fc8 instead of int8, which not all processors compute: a cascade is one of any variant."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "bundle"
        spec, _ = write_small_bundle(path)
        make_variant("fc8", path / MODEL_FILE, path / "model.fc8.onnx", spec, pixels(1))
        return path

    def write(self, path: Path, margin: float, tolerance: float = 0.5) -> Bundle:
        cascade = Cascade(margin=margin, second="float32", images=200, share=0.5, cost=0.3)
        fc8 = variant("fc8", cascade=cascade, tolerance=tolerance)
        Variants(variants=[fc8]).write(path / VARIANTS_FILE)
        write_manifest(path, provenance())
        return inspect_bundle(path)

    def session(self, bundle: Bundle, precision: Any = "fc8") -> Session:
        return checked_session(
            bundle, SessionOptions([(CPU, {})], None, 1, 8, GpuOptions(precision=precision))
        )

    def test_the_whole_answer_is_float32s_where_fc8_cannot_tell(self, path: Path) -> None:
        bundle = self.write(path, margin=1.0)
        session, plain = self.session(bundle), self.session(bundle, "float32")
        batch = list(pixels(8, 300))
        np.testing.assert_allclose(session.run(batch), plain.run(batch), atol=1e-6)
        assert (session.second, session.rerun_images) == ("float32", 8)
        assert (plain.second, plain.rerun_images) == (None, 0)

    def test_golden_samples_are_replayed_in_both_and_not_counted(self, path: Path) -> None:
        session = self.session(self.write(path, margin=1.0))
        assert session.rerun_images == 0
        with pytest.raises(UserError, match="differs from its golden samples"):
            self.session(self.write(path, margin=1.0, tolerance=1e-12))

    def test_only_images_within_the_margin_run_again(self, path: Path) -> None:
        batch = list(pixels(8, 300))
        alone = np.stack(self.session(self.write(path, margin=0.0)).run(batch))
        two = np.sort(alone, axis=1)[:, -2:]
        gaps = two[:, 1] - two[:, 0]
        margin = float(np.sort(gaps)[2:4].mean())  # of the eight, three are nearer
        session = self.session(self.write(path, margin))
        plain = self.session(inspect_bundle(path), "float32")
        answers, expected = np.stack(session.run(batch)), np.stack(plain.run(batch))
        near = gaps <= margin
        assert session.rerun_images == near.sum() == 3
        np.testing.assert_allclose(answers[near], expected[near], atol=1e-6)
        np.testing.assert_allclose(answers[~near], alone[~near], atol=1e-6)
        assert np.abs(alone[near] - expected[near]).max() > 1e-5

    def test_the_graph_that_runs_again_is_compared_with_the_manifest(self, path: Path) -> None:
        bundle = self.write(path, margin=1.0)
        self.session(bundle)
        victim = path / (WEIGHTS_FILE if (path / WEIGHTS_FILE).exists() else MODEL_FILE)
        content = bytearray(victim.read_bytes())
        content[-1] ^= 1
        victim.write_bytes(content)
        with pytest.raises(UserError, match="does not match its manifest"):
            self.session(inspect_bundle(path))

    def test_it_is_measured_with_what_runs_again(self, path: Path) -> None:
        bundle = self.write(path, margin=1.0)
        record = bundle.variants()
        choice = with_second(Choice(record.find("fc8"), "onnxruntime"), record, FULL)
        found = fastest(open_bundle(path), 1, iter([choice]))
        assert found.variant == "fc8"
        assert found.why.startswith("fc8, again in float32 takes 1.00 ")
