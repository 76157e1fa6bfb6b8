from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.bundle.bundle import EXPLAIN_FILE, MODEL_FILE, Bundle, inspect_bundle
from models.bundle.manifest import read_manifest
from models.bundle.writer import write_manifest
from models.errors import BundleError, UserError
from serving.core.batcher import BatchFailed
from serving.core.dataplane import DataPlane
from serving.core.errors import BadImage, BadRequest, Overloaded, ShuttingDown
from serving.core.explainer import Explainer, ExplainItem, ExplainRequest, HeatMap, load_explainer
from serving.core.pool import DesiredVersion, ModelPool
from serving.core.requests import InferRequest
from serving.core.supervisor import Supervisor
from serving.engine.options import SessionOptions
from testing.bundles import tiny_heat_map, write_tiny_bundle
from testing.images import coloured_pixels, encode
from testing.waiting import HANG_S, wait_until
from tests.serving.conftest import LIMITS, StubModel, served

PIXELS = np.stack([coloured_pixels(seed) for seed in range(3)])
IMAGES = [encode(pixels) for pixels in PIXELS]
OPTIONS = SessionOptions(
    [("CPUExecutionProvider", {})], must_run_on=None, intra_op_threads=1, max_batch_size=4
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return inspect_bundle(write_tiny_bundle(tmp_path / "bundle"))


def test_maps_of_a_bundle(bundle: Bundle) -> None:
    bundle.check_explainer()
    maps = load_explainer(bundle, OPTIONS)([ExplainItem(p, 2 - i) for i, p in enumerate(PIXELS)])
    for index, (image, made) in enumerate(zip(PIXELS, maps, strict=True)):
        assert made.index == 2 - index
        assert made.values.dtype == np.float32
        np.testing.assert_allclose(made.values, tiny_heat_map(image, 2 - index), atol=1e-6)


def test_a_changed_graph_is_not_loaded(bundle: Bundle) -> None:
    path = bundle.path / EXPLAIN_FILE
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BundleError, match=r"model\.explain\.onnx does not match its manifest"):
        bundle.check_explainer()


@pytest.mark.parametrize(("location", "allowed"), [("model.onnx.data", True), ("passwd", False)])
def test_weights_may_lie_beside_the_model_and_nowhere_else(
    bundle: Bundle, location: str, allowed: bool
) -> None:
    path = bundle.path / EXPLAIN_FILE
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, location=location, size_threshold=60
    )
    resealed = write_manifest(bundle.path, bundle.manifest.provenance)
    if allowed:
        load_explainer(resealed, OPTIONS)
    else:
        with pytest.raises(BundleError, match=r"has weights in 'passwd'; it was not made by"):
            load_explainer(resealed, OPTIONS)


def test_a_bundle_from_before_has_none(bundle: Bundle) -> None:
    assert bundle.explain_path == bundle.path / EXPLAIN_FILE
    (bundle.path / EXPLAIN_FILE).unlink()
    provenance = read_manifest(bundle.path).provenance
    assert write_manifest(bundle.path, provenance).explain_path is None


def test_a_graph_that_is_none(bundle: Bundle) -> None:
    shutil.copy(bundle.path / MODEL_FILE, bundle.path / EXPLAIN_FILE)
    (bundle.path / EXPLAIN_FILE).write_bytes(b"none")
    with pytest.raises(UserError, match="is not an ONNX file"):
        load_explainer(write_manifest(bundle.path, bundle.manifest.provenance), OPTIONS)


class Loads:
    """Counts how often it is called, and can fail."""

    def __init__(self, *errors: Exception) -> None:
        self.count = 0
        self._errors = list(errors)

    def __call__(self) -> Callable[[Sequence[ExplainItem]], list[HeatMap]]:
        self.count += 1
        if self._errors:
            raise self._errors.pop()
        return StubModel().explain


async def test_it_is_loaded_once_and_when_asked_for() -> None:
    loads = Loads()
    explainer = Explainer(loads, max_queue=16)
    assert loads.count == 0
    for _ in range(2):
        maps = await explainer.explain([ExplainItem(PIXELS[0], 0), ExplainItem(PIXELS[1], 1)])
        assert [one.index for one in maps] == [0, 1]
    assert loads.count == 1
    await explainer.close(1)


async def test_a_load_that_failed_is_tried_again() -> None:
    loads = Loads(BundleError("/secret/path is damaged"))
    explainer = Explainer(loads, max_queue=16)
    with pytest.raises(BatchFailed) as failed:
        await explainer.explain([ExplainItem(PIXELS[0], 0)])
    assert "secret" not in str(failed.value)
    assert len(await explainer.explain([ExplainItem(PIXELS[0], 0)])) == 1
    await explainer.close(1)


async def test_more_than_may_wait() -> None:
    loads = Loads()
    explainer = Explainer(loads, max_queue=2)
    with pytest.raises(Overloaded, match="the limit is 2"):
        await explainer.explain([ExplainItem(PIXELS[0], 0)] * 3)
    assert loads.count == 0
    await explainer.close(1)


async def test_who_waits_for_a_load_is_told_when_the_model_is_closed() -> None:
    loading, go_on = threading.Event(), threading.Event()

    def load() -> Callable[[Sequence[ExplainItem]], list[HeatMap]]:
        loading.set()
        go_on.wait()
        return StubModel().explain

    explainer = Explainer(load, max_queue=16)
    waiting = asyncio.ensure_future(explainer.explain([ExplainItem(PIXELS[0], 0)]))
    await asyncio.to_thread(loading.wait)
    await explainer.close(0)
    with pytest.raises(ShuttingDown):
        await waiting
    go_on.set()


async def test_answers_with_maps(classifier: DataPlane) -> None:
    plain = await classifier.infer(InferRequest(IMAGES))
    assert (plain.heat_maps, plain.timings.explain_s) == ({}, None)
    top = await classifier.infer(
        InferRequest([*IMAGES[:2], b"no image", IMAGES[2]], explain=[ExplainRequest()])
    )
    chosen = await classifier.infer(InferRequest(pixels=PIXELS, explain=[ExplainRequest("green")]))
    assert isinstance(top.rows[2], BadImage)
    best = [int(row.argmax()) for row in plain.probabilities]
    assert [one.index for one in top.heat_maps[""]] == best
    assert [one.index for one in chosen.heat_maps["green"]] == [1, 1, 1]
    for answer, target in ((top, ""), (chosen, "green")):
        assert answer.timings.explain_s is not None
        for image, made in zip(PIXELS, answer.heat_maps[target], strict=True):
            np.testing.assert_allclose(made.values, tiny_heat_map(image, made.index), atol=1e-6)


async def test_maps_of_several_labels(classifier: DataPlane) -> None:
    asked = [ExplainRequest("green"), ExplainRequest(), ExplainRequest("blue")]
    maps = (await classifier.infer(InferRequest(pixels=PIXELS, explain=asked))).heat_maps
    assert list(maps) == ["green", "", "blue"]
    assert {one.index for one in maps["green"]} == {1}
    assert {one.index for one in maps["blue"]} == {0}
    for of_target in maps.values():
        for image, made in zip(PIXELS, of_target, strict=True):
            np.testing.assert_allclose(made.values, tiny_heat_map(image, made.index), atol=1e-6)


async def test_nothing_is_explained_where_all_is_bad(classifier: DataPlane) -> None:
    assert (
        await classifier.infer(InferRequest([b"no image"], explain=[ExplainRequest()]))
    ).heat_maps == {}


async def test_labels_that_there_are_not(classifier: DataPlane, model: StubModel) -> None:
    with pytest.raises(BadRequest, match="target is 'pink', it must be one of the model's 3 lab"):
        await classifier.infer(InferRequest(IMAGES, explain=[ExplainRequest("pink")]))
    assert model.batches == []


async def test_a_model_without_maps(model: StubModel, classifier: DataPlane) -> None:
    models = ModelPool(lambda version: served(version, model, explains=False), grace_s=1)
    await models.follow(DesiredVersion("v0"))
    plain = DataPlane(models, classifier._decoders, LIMITS)
    with pytest.raises(BadRequest, match="version v0 has no heat maps"):
        await plain.infer(InferRequest(IMAGES, explain=[ExplainRequest()]))
    assert model.batches == []
    await models.close()


class HeldLoad(Loads):
    """Waits at a gate, in the load and in the making of each map."""

    def __init__(self) -> None:
        super().__init__()
        self.load_gate, self.map_gate = threading.Event(), threading.Event()

    def __call__(self) -> Callable[[Sequence[ExplainItem]], list[HeatMap]]:
        make = super().__call__()
        assert self.load_gate.wait(timeout=HANG_S)

        def held(items: Sequence[ExplainItem]) -> list[HeatMap]:
            assert self.map_gate.wait(timeout=HANG_S)
            return make(items)

        return held


@pytest.mark.parametrize("clients", [1, 5, 16])
async def test_clients_that_give_up_never_let_a_second_load_begin(clients: int) -> None:
    loads = HeldLoad()
    explainer = Explainer(loads, max_queue=32)
    for _ in range(clients):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await explainer.explain([ExplainItem(PIXELS[0], 0)])
    await asyncio.to_thread(wait_until, lambda: loads.count)  # its thread may begin later
    loads.load_gate.set()
    loads.map_gate.set()
    assert len(await explainer.explain([ExplainItem(PIXELS[0], 0)])) == 1
    assert loads.count == 1
    await explainer.close(1)


@pytest.mark.parametrize("where", ["load", "map"])
async def test_an_explainer_that_hangs_counts_as_running(where: str) -> None:
    """For liveness: `ModelPool.running_s`, which /livez compares with the limit."""
    loads = HeldLoad()
    if where == "map":
        loads.load_gate.set()
    model = served("v1", StubModel())
    model.explainer = Explainer(loads, max_queue=16)
    pool = ModelPool(lambda version: model, grace_s=1)
    await pool.follow(DesiredVersion("v1"))
    assert pool.running_s == 0
    asking = asyncio.create_task(model.explainer.explain([ExplainItem(PIXELS[0], 0)]))
    async with asyncio.timeout(HANG_S):
        while pool.running_s <= 0.05:
            await asyncio.sleep(0.01)
    loads.load_gate.set()
    loads.map_gate.set()
    await asking
    assert pool.running_s == 0
    await pool.close()


async def test_a_load_that_fails_again_and_again_is_told_once_and_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures: list[str] = []
    supervisor = Supervisor(failures.append)
    loads = Loads(*(BundleError("is damaged") for _ in range(10)))
    explainer = Explainer(loads, max_queue=16, supervisor=supervisor)
    for _ in range(10):
        with pytest.raises(BatchFailed):
            await explainer.explain([ExplainItem(PIXELS[0], 0)])
    assert loads.count == len(failures) == 2  # at once again after the first failure, then a pause
    assert len([r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]) == 1
    await explainer.close(1)
