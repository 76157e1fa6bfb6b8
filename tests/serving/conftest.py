"""A classifier over a stub model, for the tests of what lies around it."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from models.bundle.acceptance import Acceptance
from models.bundle.spec import ModelSpec
from models.errors import StoreError
from serving.admission.api_keys import Keys
from serving.admission.rate_limit import RateLimit
from serving.context import ServiceContext
from serving.core.batcher import Batcher
from serving.core.dataplane import DataPlane, Limits
from serving.core.decode_budget import DecodeBudget
from serving.core.explainer import Explainer, ExplainItem, HeatMap
from serving.core.pool import DesiredVersion, ModelPool
from serving.core.served_model import ServedModel
from serving.core.statistics import ModelStatistics
from serving.engine.right_of_way import Traffic
from serving.engine.session import ModelOutput
from serving.grpc.server import GrpcOptions, GrpcServer
from serving.grpc.servicer import InferenceServicer
from serving.observability.metrics import Metrics
from serving.observability.telemetry import Telemetry
from serving.open_inference.repository import Repository
from testing.bundles import tiny_heat_map, tiny_probabilities, tiny_spec
from testing.ports import free_port
from testing.waiting import HANG_S

LIMITS = Limits(
    max_image_bytes=20_000,
    max_image_pixels=40_000,
    max_request_images=8,
    max_request_bytes=100_000,
    request_timeout_s=10.0,
    image_formats=("JPEG", "PNG", "WEBP"),
)

# What a model runs on, and how the v2 protocol's metadata name it.
ENGINES = [
    ("CPUExecutionProvider", "onnxruntime_onnx", "onnxruntime"),
    ("CUDAExecutionProvider", "onnxruntime_onnx", "onnxruntime"),
    ("TensorrtExecutionProvider", "onnxruntime_onnx", "onnxruntime"),
    ("ncnn", "ncnn", "ncnn"),
    ("OpenVINO", "openvino", "openvino"),
]

MAX_MESSAGE_BYTES = 50_000


STUB_CONFIDENCE = 0.5


def stub_distance(image: NDArray[np.uint8]) -> float:
    """Of an image, by its first value: 0 to 2.55."""
    return float(image[0, 0, 0]) / 100


class StubModel:
    """Answers as `tiny_probabilities` does, and can be told to fail or to take its time."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.error: Exception | None = None
        self.seconds = 0.0
        self.free = threading.Event()  # cleared, it takes a batch and keeps it
        self.free.set()

    def judge(self, images: Sequence[NDArray[np.uint8]]) -> list[ModelOutput]:
        self.batches.append(len(images))
        time.sleep(self.seconds)
        assert self.free.wait(HANG_S)
        if self.error is not None:
            raise self.error
        rows = tiny_probabilities(np.stack(images))
        return [
            ModelOutput(row, stub_distance(image)) for row, image in zip(rows, images, strict=True)
        ]

    def explain(self, items: Sequence[ExplainItem]) -> list[HeatMap]:
        return [HeatMap(q.index, tiny_heat_map(q.pixels, q.index)) for q in items]


@pytest.fixture
def model() -> StubModel:
    return StubModel()


def served(
    version: str,
    model: StubModel,
    spec: ModelSpec | None = None,
    *,
    explains: bool = True,
    traffic: Traffic | None = None,
) -> ServedModel:
    statistics = ModelStatistics()
    return ServedModel(
        name="vgg19",
        version=version,
        spec=spec or tiny_spec(),
        metrics={"held_out": {"accuracy": 0.9}},
        provider="CPUExecutionProvider",
        batcher=Batcher(
            model.judge, max_batch_size=4, max_queue=16, on_batch=statistics.count_batch
        ),
        statistics=statistics,
        acceptance=Acceptance(target_precision=0.9, min_confidence=STUB_CONFIDENCE),
        has_distance=True,
        explainer=Explainer(lambda: model.explain, max_queue=16) if explains else None,
        traffic=traffic,
    )


def telemetry_of(registry: CollectorRegistry | None = None, **changes: Any) -> Telemetry:
    options: dict[str, Any] = {"write": None, "tracer": None}
    return Telemetry(Metrics(registry or CollectorRegistry()), **(options | changes))


def context_of(classifier: DataPlane, **changes: Any) -> ServiceContext:
    """As `Runtime` makes it, for the versions v1, v2 and broken, of which v1 is promoted."""
    models = classifier.models

    async def follow() -> None:
        await models.follow(DesiredVersion("v1"))

    options: dict[str, Any] = {
        "classifier": classifier,
        "repository": Repository(models, lambda: ["v1", "v2", "broken"], follow, shared=False),
        "keys": Keys(),
        "rate_limit": RateLimit(0, 1),
        "telemetry": telemetry_of(),
        "is_ready": lambda: True,
    }
    return ServiceContext(**(options | changes))


@pytest.fixture
async def models(model: StubModel) -> AsyncIterator[ModelPool]:
    """Serves version v1; any version that begins with a v can be loaded."""

    def load(version: str) -> ServedModel:
        if not version.startswith("v"):
            raise StoreError(f"no model {version}")
        return served(version, model)

    pool = ModelPool(load, grace_s=5)
    await pool.follow(DesiredVersion("v1"))
    yield pool
    await pool.close()


@pytest.fixture
def classifier(models: ModelPool) -> Iterator[DataPlane]:
    decoders = DecodeBudget(2)
    yield DataPlane(models, decoders, LIMITS)
    decoders.close()


def grpc_options(port: int, **changes: Any) -> GrpcOptions:
    return GrpcOptions("127.0.0.1", port, max_message_bytes=MAX_MESSAGE_BYTES, **changes)


@asynccontextmanager
async def grpc_serving(context: ServiceContext, **changes: Any) -> AsyncIterator[str]:
    """A gRPC server on a free port; gives its address."""
    port = free_port()
    servicer = InferenceServicer(context, "1.2.3")
    server = await GrpcServer.start(servicer, grpc_options(port, **changes))
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace_s=0)
