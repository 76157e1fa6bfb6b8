from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from models.bundle.bundle import open_bundle
from models.bundle.writer import write_manifest
from serving.engine.cuda import Card, CudaGraphs, pinned_array
from serving.engine.options import SessionOptions
from serving.engine.providers import CPU, CUDA, GpuOptions, SessionError, cuda_options
from serving.engine.session import Session
from testing.bundles import provenance, tiny_probabilities
from testing.images import SIZE, coloured_pixels
from testing.small_vgg import write_small_bundle
from testing.waiting import HANG_S, wait_until

SIZES = [1, 2, 4, 8]
IMAGES = [coloured_pixels(seed) for seed in range(8)]


@pytest.fixture
def engine(tiny_bundle: Path) -> CudaGraphs:
    """On the CPU, where nothing is captured and all else is the same."""
    session = ort.InferenceSession(tiny_bundle / "model.onnx", providers=[CPU])
    outputs = {"probabilities": 3}
    return CudaGraphs(session, "images", (SIZE, SIZE, 3), outputs, SIZES, 0, device="cpu")


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_padding_changes_no_answer(engine: CudaGraphs, count: int) -> None:
    engine(IMAGES[::-1])  # what lies in the batch from before
    (rows,) = engine(IMAGES[:count])
    np.testing.assert_allclose(rows, tiny_probabilities(np.stack(IMAGES[:count])), atol=1e-6)


def test_batches_of_many_threads_don_t_mix(engine: CudaGraphs) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        for turn in range(40):
            images = [coloured_pixels(100 * seed + k) for k in range(1 + (seed + turn) % 8)]
            (rows,) = engine(images)
            if not np.allclose(rows, tiny_probabilities(np.stack(images)), atol=1e-6):
                wrong.append(turn)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_error_reaches_who_asked_and_the_next_batch_runs(engine: CudaGraphs) -> None:
    with pytest.raises(ValueError, match="shape"):
        engine([np.zeros((SIZE, SIZE + 1, 3), np.uint8)])
    for _ in range(4):  # more than there are buffers
        assert len(engine(IMAGES[:2])[0]) == 2


def test_a_dropped_engine_leaves_no_thread(engine: CudaGraphs) -> None:
    session = ort.InferenceSession(_identity(), providers=[CPU])
    before = threading.active_count()
    other = CudaGraphs(session, "x", (1, 1, 3), {"y": 3}, [1], 0, device="cpu")
    dropped = weakref.ref(other)
    assert threading.active_count() == before + 1
    del other
    gc.collect()
    wait_until(lambda: threading.active_count() <= before)
    assert dropped() is None
    assert engine is not None


def test_memory_where_there_is_no_card() -> None:
    array = pinned_array((2, 4, 4, 3), device_id=0)
    array[1] = 7
    assert array.dtype == np.uint8
    assert (array.shape, int(array.sum())) == ((2, 4, 4, 3), 7 * 48)


class TestCard:
    def test_users_work_beside_each_other(self) -> None:
        card, together = Card(), threading.Barrier(2, timeout=HANG_S)

        def use() -> None:
            with card.using():
                together.wait()  # which both reach only if both are in

        threads = [threading.Thread(target=use) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not together.broken

    def test_who_captures_is_alone_and_comes_to_his_turn(self) -> None:
        card = Card()
        using, captured, inside = [0], [0], threading.Lock()
        wrong: list[str] = []
        done = threading.Event()

        def use() -> None:
            while not done.is_set():
                with card.using():
                    with inside:
                        using[0] += 1
                    if captured[0]:
                        wrong.append("a user beside a capture")
                    with inside:
                        using[0] -= 1

        users = [threading.Thread(target=use) for _ in range(3)]
        for user in users:
            user.start()
        for _ in range(50):
            with card.capturing():
                captured[0] += 1
                if using[0]:
                    wrong.append("a capture beside a user")
                captured[0] -= 1
        done.set()
        for user in users:
            user.join()
        assert wrong == []

    def test_an_error_lets_the_others_go_on(self) -> None:
        card = Card()
        for occupied in (card.using, card.capturing):
            with pytest.raises(RuntimeError), occupied():
                raise RuntimeError
        with card.capturing():
            pass
        with card.using():
            pass


def _identity() -> bytes:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["float"], ["y"]),
        ],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 1, 1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()  # type: ignore[no-any-return]


def on_cuda(bundle: Path, **changes: object) -> Session:
    gpu = GpuOptions(**changes)  # type: ignore[arg-type]
    options = SessionOptions([(CUDA, cuda_options(gpu)), (CPU, {})], CUDA, 1, 8, gpu)
    return Session(open_bundle(bundle), options)


@pytest.mark.gpu
class TestOnACard:
    def test_a_captured_vgg_answers_as_its_golden_samples(self, tmp_path: Path) -> None:
        bundle = sealed(tmp_path / "bundle")
        session = on_cuda(bundle)
        golden = open_bundle(bundle).golden()
        for count in (1, 3, 4):
            rows = np.stack(session.run(list(golden.images[:count])))
            np.testing.assert_allclose(rows, golden.probabilities[:count], atol=1e-4)

    def test_too_little_memory_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(SessionError, match="VGG19_GPU_MEM_LIMIT"):
            on_cuda(sealed(tmp_path / "bundle"), mem_limit_bytes=1000)

    def test_a_model_is_loaded_while_another_one_answers(self, tmp_path: Path) -> None:
        bundle = sealed(tmp_path / "bundle")
        old, golden = on_cuda(bundle), open_bundle(bundle).golden()
        wrong: list[object] = []
        done = threading.Event()

        def work() -> None:
            while not done.is_set():
                try:
                    rows = np.stack(old.run(list(golden.images)))
                    if not np.allclose(rows, golden.probabilities, atol=1e-4):
                        wrong.append("another answer")
                except Exception as error:  # whatever it is, none is to be
                    wrong.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        new = on_cuda(bundle)
        done.set()
        worker.join()
        assert wrong == []
        assert len(new.run(list(golden.images))) == len(golden.images)


def sealed(path: Path) -> Path:
    write_small_bundle(path)
    write_manifest(path, provenance())
    return path
