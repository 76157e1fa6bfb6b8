from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnx.numpy_helper import from_array, to_array

from models.bundle import manifest
from models.bundle.bundle import (
    DISTANCE_FILE,
    EXPLAIN_FILE,
    FEATURES_OUTPUT,
    GOLDEN_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    Bundle,
    inspect_bundle,
    open_bundle,
)
from models.bundle.golden import GoldenSamples
from models.bundle.manifest import read_manifest, sha256
from models.bundle.writer import write_manifest
from models.errors import BundleError
from models.export.distance_graph import write_distance_graph
from serving.engine import load as load_module
from serving.engine import right_of_way
from serving.engine.batch_sizes import batch_buckets, default_batch_size, default_concurrency
from serving.engine.onnxruntime import OnnxRuntime, inference_session
from serving.engine.options import SessionOptions
from serving.engine.providers import (
    CPU,
    CUDA,
    TENSORRT,
    GpuOptions,
    SessionError,
    cuda_options,
)
from serving.engine.right_of_way import Courtesy, Traffic
from serving.engine.session import ModelOutput, Session, checked_session
from testing.bundles import provenance, tiny_probabilities
from testing.images import SIZE, coloured_pixels
from testing.small_vgg import pixels, write_small_bundle
from testing.waiting import HANG_S
from training.evaluate.feature_statistics import fit, with_limit

ON_CPU: dict[str, Any] = {
    "providers": [(CPU, {})], "must_run_on": None, "intra_op_threads": 1, "max_batch_size": 8
}  # fmt: skip


def load(bundle: Path, **changes: Any) -> Session:
    return Session(open_bundle(bundle), SessionOptions(**(ON_CPU | changes)))


class _Noting(Traffic):
    """Notes what asks for a gap; in the first ones a request comes at once."""

    def __init__(self, interrupted: int) -> None:
        super().__init__()
        self.gaps, self.waits = 0, 0
        self._interrupted = interrupted

    def wait_for_gap(self, wait_s: float) -> bool:
        self.waits += 1
        return super().wait_for_gap(wait_s)

    def take_gap(self, run: ort.RunOptions, wait_s: float, usual_s: float = 0.0) -> bool:
        self.gaps += 1
        has_gap = super().take_gap(run, wait_s, usual_s)
        if self.gaps <= self._interrupted:
            self.enter()
            self.leave()
        return has_gap


@pytest.mark.parametrize(("row", "best"), [([0.1, 0.7, 0.2], 1), ([0.4, 0.4, 0.2], 0), ([1.0], 0)])
def test_the_best_of_a_row(row: list[float], best: int) -> None:
    assert ModelOutput(np.array(row, np.float32)).best() == best


def test_the_last_run_is_told(tiny_bundle: Path) -> None:
    session = load(tiny_bundle)
    assert session.last_run == (0, 0.0)  # replaying golden samples isn't one
    session.judge([coloured_pixels(0)] * 3)
    images, seconds = session.last_run
    assert images == 3
    assert 0 < seconds < 10


class TestRightOfWay:
    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Bundle:
        write_small_bundle(tmp_path / "small")
        return write_manifest(tmp_path / "small", provenance())

    @pytest.mark.slow
    @pytest.mark.parametrize("interrupted", [0, 3])
    def test_each_golden_sample_is_replayed_in_a_gap_and_anew_after_a_request(
        self, bundle: Bundle, interrupted: int
    ) -> None:
        traffic = _Noting(interrupted)
        session = Session(bundle, SessionOptions(**ON_CPU), Courtesy(traffic))
        golden = bundle.golden()
        assert traffic.gaps == len(golden.images) + interrupted
        np.testing.assert_allclose(
            session.run(list(golden.images)), golden.probabilities, atol=golden.tolerance
        )


class TestChecked:
    """A session of a bundle whose graph nobody has compared with the manifest."""

    @pytest.fixture
    def bundle(self, tiny_bundle: Path) -> Bundle:
        path = tiny_bundle / MODEL_FILE
        model = onnx.load(path)
        (weight,) = (one for one in model.graph.initializer if one.name == "eight")
        weight.CopyFrom(from_array(to_array(weight), weight.name))  # as bytes, which can be moved
        onnx.save_model(
            model, path, save_as_external_data=True, location=WEIGHTS_FILE, size_threshold=0
        )
        assert (tiny_bundle / WEIGHTS_FILE).stat().st_size == 4
        write_manifest(tiny_bundle, provenance())
        return inspect_bundle(tiny_bundle)

    def test_weights_are_compared_between_requests(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(manifest, "_PIECE_BYTES", 1)
        traffic = _Noting(0)
        checked_session(bundle, SessionOptions(**ON_CPU), traffic)
        assert traffic.waits == 4  # bytes of weights

    def test_beside_requests_weights_are_compared_before_a_session_is_made(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done: list[str] = []

        def note(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def noting(*arguments: Any, **named: Any) -> Any:
                result = function(*arguments, **named)
                done.append(what)
                return result

            return noting

        traffic = _Noting(0)
        monkeypatch.setattr(right_of_way, "_RECENTLY_S", HANG_S)  # however busy the machine is
        monkeypatch.setattr(manifest, "sha256", note("compared", sha256))
        monkeypatch.setattr(load_module, "inference_session", note("made", inference_session))
        monkeypatch.setattr(
            traffic, "wait_for_beginning", note("waited", traffic.wait_for_beginning)
        )
        traffic.enter()
        traffic.leave()
        checked_session(bundle, SessionOptions(**ON_CPU), traffic)
        assert done[:4] == ["compared", "compared", "waited", "made"]  # the graph, its weights

    def test_it_answers(self, bundle: Bundle) -> None:
        images = [coloured_pixels(seed) for seed in range(3)]
        rows = checked_session(bundle, SessionOptions(**ON_CPU)).run(images)
        np.testing.assert_array_equal(rows, load(bundle.path).run(images))

    def test_weights_are_refused_that_no_golden_sample_finds(self, bundle: Bundle) -> None:
        weights = bundle.path / WEIGHTS_FILE
        content = bytearray(weights.read_bytes())
        content[0] ^= 1  # the last bit of its mantissa
        weights.write_bytes(content)
        Session(bundle, SessionOptions(**ON_CPU))
        with pytest.raises(BundleError, match=f"{WEIGHTS_FILE} does not match its manifest"):
            checked_session(bundle, SessionOptions(**ON_CPU))

    def test_damage_is_told_and_not_what_came_of_it(
        self, bundle: Bundle, caplog: pytest.LogCaptureFixture
    ) -> None:
        weights = bundle.path / WEIGHTS_FILE
        weights.write_bytes(weights.read_bytes()[:-1])
        with pytest.raises(BundleError, match=f"{WEIGHTS_FILE} does not match its manifest"):
            checked_session(bundle, SessionOptions(**ON_CPU))
        assert caplog.text == ""
        weights.write_bytes(b"\x7f" * 4)  # the samples differ as well
        with pytest.raises(BundleError, match=f"{WEIGHTS_FILE} does not match its manifest"):
            checked_session(bundle, SessionOptions(**ON_CPU))

    def test_a_graph_is_compared_before_anything_reads_it(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read(*_: object) -> None:
            raise AssertionError("it was read")

        monkeypatch.setattr("serving.engine.load.check_graph", read)
        with pytest.raises(AssertionError, match="it was read"):
            checked_session(bundle, SessionOptions(**ON_CPU))
        (bundle.path / MODEL_FILE).write_bytes(b"other")
        with pytest.raises(BundleError, match=f"{MODEL_FILE} does not match its manifest"):
            checked_session(bundle, SessionOptions(**ON_CPU))

    def test_heat_maps_do_not_read_the_weights_again(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checked_session(bundle, SessionOptions(**ON_CPU))
        read: list[str] = []

        def spy(path: Path, between: Callable[[], None]) -> str:
            read.append(path.name)
            return sha256(path, between)

        monkeypatch.setattr("models.bundle.manifest.sha256", spy)
        bundle.check_explainer()
        assert read == [EXPLAIN_FILE]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_run_answers_in_order(tiny_bundle: Path, size: int) -> None:
    pixels = np.stack([coloured_pixels(seed) for seed in range(size)])
    rows = load(tiny_bundle).run(list(pixels))
    assert len(rows) == size
    np.testing.assert_allclose(rows, tiny_probabilities(pixels), atol=1e-6)


@pytest.mark.slow
def test_distances_are_those_of_the_training_end(tmp_path: Path) -> None:
    """What the network makes of images, through both graphs of a bundle."""
    path = tmp_path / "bundle"
    spec, _ = write_small_bundle(path)
    session = ort.InferenceSession(path / MODEL_FILE, providers=[CPU])

    def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        (values,) = session.run([FEATURES_OUTPUT], {spec.input_name: images})
        return values  # type: ignore[no-any-return]

    familiar = with_limit(
        fit(features(pixels(60)), np.arange(60) % 3, 3), features(pixels(30, 100))
    )
    write_distance_graph(familiar, path / DISTANCE_FILE)
    write_manifest(path, provenance())
    loaded = load(path)
    assert loaded.has_distance
    images = np.concatenate([pixels(4, 200), 255 - pixels(4, 300)])
    outputs = loaded.judge(list(images))
    expected = familiar.distances(features(images))
    assert [one.distance for one in outputs] == pytest.approx(expected.tolist(), rel=1e-3)
    np.testing.assert_allclose([one.probabilities for one in outputs], loaded.run(list(images)))
    assert expected[:4].max() < expected[4:].min()  # inverted pictures are unlike them


def test_a_model_without_distances(tiny_bundle: Path) -> None:
    session = load(tiny_bundle)
    assert not session.has_distance
    assert [one.distance for one in session.judge([coloured_pixels(0)] * 2)] == [None, None]


def test_a_silent_fall_back_of_onnx_runtime_is_an_error_where_cuda_is_a_must(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime only logs when CUDA fails to start, and goes on with the CPU."""
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(
        ort, "InferenceSession", lambda path, options, providers: real(path, providers=[CPU])
    )
    wanted = [(CUDA, {"device_id": "0"}), (CPU, {})]
    with pytest.raises(SessionError, match="CUDAExecutionProvider did not start"):
        load(tiny_bundle, providers=wanted, must_run_on=CUDA)
    assert load(tiny_bundle, providers=wanted).provider == CPU


def test_providers_and_threads_reach_onnx_runtime(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    real = ort.InferenceSession

    def spy(path: Path, options: Any, providers: Any) -> Any:
        seen.update(
            threads=options.intra_op_num_threads,
            providers=providers,
            keeps_memory=options.enable_cpu_mem_arena,
            plans_memory=options.enable_mem_pattern,
        )
        return real(path, options, providers=providers)

    monkeypatch.setattr(ort, "InferenceSession", spy)
    load(tiny_bundle, intra_op_threads=3)
    assert seen == {
        "threads": 3, "providers": [(CPU, {})], "keeps_memory": True, "plans_memory": False
    }  # fmt: skip


@pytest.mark.parametrize(
    ("on_gpu", "image_size", "threads", "expected"),
    [
        (False, 224, 1, 2),
        (False, 224, 2, 4),
        (False, 224, 8, 16),
        (False, 224, 64, 16),
        (False, 192, 64, 21),
        (False, 112, 2, 16),  # a quarter of the memory, four times as many
        (False, 32, 2, 32),
        (False, 448, 2, 1),
        (False, 1000, 1, 1),
        (True, 224, 2, 32),
        (True, 448, 1, 32),
    ],
)
def test_the_default_batch_size(on_gpu: bool, image_size: int, threads: int, expected: int) -> None:
    found = default_batch_size(on_gpu=on_gpu, image_size=image_size, threads=threads)
    assert found == expected


def test_the_largest_batch_is_what_was_asked_for_or_the_default(tiny_bundle: Path) -> None:
    assert load(tiny_bundle).max_batch_size == 8
    assert load(tiny_bundle, max_batch_size=0).max_batch_size == 32  # its images are small


def test_a_session_that_saves_memory_keeps_nothing_and_copies_no_weights(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = ort.InferenceSession

    def spy(path: Path, options: Any, providers: Any) -> Any:
        packing = options.get_session_config_entry("session.disable_prepacking")
        seen.append((options.enable_cpu_mem_arena, packing))
        return real(path, options, providers=providers)

    monkeypatch.setattr(ort, "InferenceSession", spy)
    options = SessionOptions([(CPU, {})], None, intra_op_threads=1, max_batch_size=1)
    inference_session(tiny_bundle / MODEL_FILE, options, saves_memory=True)
    assert seen == [(False, "1")]


class TestBuckets:
    @pytest.mark.parametrize(
        ("largest", "expected"),
        [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12]), (3, [1, 2, 3])],
    )
    def test_powers_of_two_and_the_maximum(self, largest: int, expected: list[int]) -> None:
        assert batch_buckets(largest) == expected

    def test_padding_changes_no_answer_and_only_these_sizes_run(self, tiny_bundle: Path) -> None:
        sizes: list[int] = []

        class Spy(ort.InferenceSession):  # type: ignore[misc]  # untyped
            def run(self, names: list[str], feed: dict[str, NDArray[np.uint8]], *rest: Any) -> Any:
                sizes.append(len(feed["images"]))
                return super().run(names, feed, *rest)

        session = Spy(tiny_bundle / MODEL_FILE, providers=[CPU])
        engine = OnnxRuntime(session, "images", ["probabilities"], (SIZE, SIZE, 3), [1, 2, 4, 8])
        assert sizes == [1, 2, 4, 8]  # so that no request pays for the first time
        sizes.clear()
        for count in (1, 3, 5, 8):
            pixels = np.stack([coloured_pixels(seed) for seed in range(count)])
            np.testing.assert_allclose(
                engine(list(pixels))[0], tiny_probabilities(pixels), atol=1e-6
            )
        assert sizes == [1, 4, 8, 8]


class TestGolden:
    @pytest.mark.parametrize("offset", [2e-4, float("nan")])
    def test_a_model_that_does_not_reproduce_its_samples_is_not_served(
        self, tiny_bundle: Path, offset: float
    ) -> None:
        golden = GoldenSamples.read(tiny_bundle / GOLDEN_FILE)
        wrong = golden.probabilities + np.float32(offset)
        golden.model_copy(update={"probabilities": wrong}).write(tiny_bundle / GOLDEN_FILE)
        write_manifest(tiny_bundle, read_manifest(tiny_bundle).provenance)
        with pytest.raises(SessionError, match="differs from its golden samples .* 1.0e-04"):
            load(tiny_bundle)

    def test_differences_within_the_tolerance_pass(self, tiny_bundle: Path) -> None:
        golden = GoldenSamples.read(tiny_bundle / GOLDEN_FILE)
        near = golden.probabilities + np.float32(5e-5)
        golden.model_copy(update={"probabilities": near}).write(tiny_bundle / GOLDEN_FILE)
        write_manifest(tiny_bundle, read_manifest(tiny_bundle).provenance)
        assert load(tiny_bundle).provider == CPU


def test_a_graph_that_cannot_be_loaded(tiny_bundle: Path) -> None:
    (tiny_bundle / "model.onnx").write_bytes(b"rubbish")
    write_manifest(tiny_bundle, read_manifest(tiny_bundle).provenance)
    with pytest.raises(BundleError, match="is not an ONNX file"):
        load(tiny_bundle)


def test_a_graph_that_onnx_runtime_refuses(tiny_bundle: Path) -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["nowhere"], ["y"])], "graph", [], [])
    onnx.save_model(helper.make_model(graph), tiny_bundle / "model.onnx")
    write_manifest(tiny_bundle, read_manifest(tiny_bundle).provenance)
    with pytest.raises(SessionError, match="ONNX Runtime can't load"):
        load(tiny_bundle)


def test_batches_are_a_processor_s_where_the_gpu_did_not_start(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    session = load(
        tiny_bundle,
        providers=[(CUDA, cuda_options(GpuOptions(device_id=99))), (CPU, {})],
        max_batch_size=0,
    )
    usual = default_batch_size(on_gpu=False, image_size=SIZE, threads=1)
    assert (session.provider, session.max_batch_size) == (CPU, usual)


@pytest.mark.parametrize(
    ("said", "limit", "words"),
    [
        ("Failed to allocate memory for requested buffer of size 25690112", 0, "free some of it"),
        ("Available memory of 0 is smaller than requested bytes of 411041792", 9, "(9 bytes)"),
        ("CUDA failure 2: out of memory ; GPU=0", 0, "free some of it"),
    ],
)
def test_too_little_memory_of_a_gpu_is_said_with_the_way_out(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, said: str, limit: int, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(SessionError, match="too little memory") as caught:
        load(tiny_bundle, gpu=GpuOptions(mem_limit_bytes=limit))
    message = str(caught.value)
    assert words in message
    assert "VGG19_MAX_BATCH_SIZE" in message
    assert "\n" not in message


@pytest.mark.parametrize(("provider", "batches"), [(CPU, 1), ("ncnn", 1), (CUDA, 2), (TENSORRT, 2)])
def test_how_many_batches_run_beside_each_other(provider: str, batches: int) -> None:
    assert default_concurrency(provider) == batches


@pytest.mark.gpu
def test_cuda_reproduces_the_golden_samples(tiny_bundle: Path) -> None:
    assert (
        load(
            tiny_bundle, providers=[(CUDA, cuda_options(GpuOptions())), (CPU, {})], must_run_on=CUDA
        ).provider
        == CUDA
    )
