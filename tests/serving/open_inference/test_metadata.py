from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf.message import Message

from protocol import open_inference_pb2 as pb
from serving.core.dataplane import DataPlane
from serving.core.requests import InferRequest
from serving.open_inference import metadata as model_info
from serving.open_inference.metadata import model_metadata
from testing.images import coloured_pixels
from tests.serving.conftest import StubModel, served


async def test_metadata(model: StubModel) -> None:
    metadata = model_metadata(served("v1", model), ["v1", "v2"])
    assert metadata["versions"] == ["v1", "v2"]
    assert metadata["inputs"] == [
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
        {"name": "pixels", "datatype": "UINT8", "shape": [-1, 32, 32, 3]},
    ]
    assert [(t["name"], t["shape"]) for t in metadata["outputs"]] == [
        ("probabilities", [-1, 3]),
        ("label", [-1]),
        ("accepted", [-1]),
        ("distance", [-1]),
        ("heatmap", [-1, 1, 1]),
    ]
    without = model_metadata(served("v1", model, explains=False), ["v1"])
    assert [tensor["name"] for tensor in without["outputs"]] == [
        "probabilities", "label", "accepted", "distance",
    ]  # fmt: skip


async def test_config_tells_tensors_and_batching(classifier: DataPlane) -> None:
    config = model_info.model_config(classifier.models.current)
    assert (config["name"], config["max_batch_size"]) == ("vgg19", 4)
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["input"]] == [
        ("image", "TYPE_STRING", [1]),
        ("pixels", "TYPE_UINT8", [32, 32, 3]),
    ]
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["output"]] == [
        ("probabilities", "TYPE_FP32", [3]),
        ("label", "TYPE_STRING", [1]),
        ("accepted", "TYPE_BOOL", [1]),
        ("distance", "TYPE_FP32", [1]),
        ("heatmap", "TYPE_FP32", [1, 1]),
    ]
    assert [t.get("optional") for t in config["input"] + config["output"]] == [True] * 2 + [
        None
    ] * 5
    assert config["dynamic_batching"] == {"max_queue_delay_microseconds": 0}


async def test_statistics_count_requests_images_and_batches(
    classifier: DataPlane, model: StubModel
) -> None:
    pixels = np.stack([coloured_pixels(seed) for seed in range(6)])
    model.seconds = 0.01
    await classifier.infer(InferRequest(pixels=pixels))
    await classifier.infer(InferRequest(pixels=pixels[:1]))
    (counted,) = model_info.model_statistics(classifier.models.find())["model_stats"]
    assert (counted["name"], counted["version"]) == ("vgg19", "v1")
    assert (counted["inference_count"], counted["execution_count"]) == (7, 3)
    assert [b["batch_size"] for b in counted["batch_stats"]] == [1, 2, 4]
    stats = counted["inference_stats"]
    assert stats["success"]["count"] == 2
    assert stats["fail"] == {"count": 0, "ns": 0}
    assert stats["compute_infer"]["ns"] >= 3 * 10_000_000
    stages = ("queue", "compute_input", "compute_infer", "compute_output")
    assert sum(stats[stage]["ns"] for stage in stages) == stats["success"]["ns"]
    assert counted["last_inference"] > 1_700_000_000_000


def told(message: Message) -> dict[str, Any]:
    """The fields of a message that are set, numbers as numbers."""
    return {field.name: _told(field, value) for field, value in message.ListFields()}


def _told(field: Any, value: Any) -> Any:
    if field.is_repeated:
        return [told(one) if field.message_type else one for one in value]
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return told(value) if field.message_type else value


def set_ones(value: Any) -> Any:
    """Without what protobuf doesn't tell from absence: 0 and empty lists."""
    if isinstance(value, dict):
        return {key: set_ones(one) for key, one in value.items() if one not in (0, [])}
    return [set_ones(one) for one in value] if isinstance(value, list) else value


async def test_messages_of_grpc_say_all_of_it(classifier: DataPlane, model: StubModel) -> None:
    pixels = np.stack([coloured_pixels(seed) for seed in range(6)])
    await classifier.infer(InferRequest(pixels=pixels))
    served = classifier.models.current
    for kind, info in (
        (pb.ServerMetadataResponse, model_info.server_metadata("1.2.3")),
        (pb.ModelMetadataResponse, model_metadata(served, ["v1"])),
        (pb.ModelConfig, model_info.model_config(served)),
        (pb.ModelStatisticsResponse, model_info.model_statistics([served])),
    ):
        message = kind(**info)
        assert told(message) == set_ones(info)
        # Nor has a message a field that is told over gRPC alone.
        assert [field.name for field in kind.DESCRIPTOR.fields] == list(info)
