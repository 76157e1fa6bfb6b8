"""What the v2 protocol tells about a model: metadata, configuration, statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from protocol import open_inference_pb2 as pb
from serving.core.explainer import heat_map_side
from serving.core.pool import ServedModel
from serving.core.statistics import ModelStatistics, Total
from serving.open_inference.codec import (
    ACCEPTED,
    DISTANCE,
    HEAT_MAP,
    IMAGE,
    LABEL,
    PIXELS,
    PROBABILITIES,
)

PLATFORM = "onnxruntime_onnx"  # KServe's and Triton's name for it

_TensorMetadata = pb.ModelMetadataResponse.TensorMetadata


def model_metadata(model: ServedModel, versions: Sequence[str]) -> pb.ModelMetadataResponse:
    """Names, types and shapes of the tensors; -1 is any number of images."""
    spec = model.spec
    size = spec.preprocessing.image_size
    outputs = [
        _TensorMetadata(name=PROBABILITIES, datatype="FP32", shape=[-1, len(spec.labels)]),
        _TensorMetadata(name=LABEL, datatype="BYTES", shape=[-1]),
        _TensorMetadata(name=ACCEPTED, datatype="BOOL", shape=[-1]),
    ]
    if model.has_distance:
        outputs.append(_TensorMetadata(name=DISTANCE, datatype="FP32", shape=[-1]))
    if model.explainer is not None:
        shape = [-1, heat_map_side(size), heat_map_side(size)]
        outputs.append(_TensorMetadata(name=HEAT_MAP, datatype="FP32", shape=shape))
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=versions,
        platform=PLATFORM,
        inputs=[
            _TensorMetadata(name=IMAGE, datatype="BYTES", shape=[-1]),
            _TensorMetadata(name=PIXELS, datatype="UINT8", shape=[-1, size, size, 3]),
        ],
        outputs=outputs,
    )


def model_config(model: ServedModel) -> pb.ModelConfig:
    """In the terms of Triton's model configuration; one of the two inputs is given."""
    size = model.spec.preprocessing.image_size
    outputs = [
        pb.ModelOutput(name=PROBABILITIES, data_type=pb.TYPE_FP32, dims=[len(model.spec.labels)]),
        pb.ModelOutput(name=LABEL, data_type=pb.TYPE_STRING, dims=[1]),
        pb.ModelOutput(name=ACCEPTED, data_type=pb.TYPE_BOOL, dims=[1]),
    ]
    if model.has_distance:
        outputs.append(pb.ModelOutput(name=DISTANCE, data_type=pb.TYPE_FP32, dims=[1]))
    if model.explainer is not None:
        side = heat_map_side(size)
        outputs.append(pb.ModelOutput(name=HEAT_MAP, data_type=pb.TYPE_FP32, dims=[side, side]))
    delay_us = round(model.batcher.max_delay_s * 1e6)
    return pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend="onnxruntime",
        max_batch_size=model.batcher.max_batch_size,
        input=[
            pb.ModelInput(name=IMAGE, data_type=pb.TYPE_STRING, dims=[1], optional=True),
            pb.ModelInput(
                name=PIXELS, data_type=pb.TYPE_UINT8, dims=[size, size, 3], optional=True
            ),
        ],
        output=outputs,
        dynamic_batching=pb.ModelDynamicBatching(max_queue_delay_microseconds=delay_us),
    )


def model_statistics(models: Sequence[ServedModel]) -> pb.ModelStatisticsResponse:
    """What each of these models has answered since it was loaded, in this worker."""
    return pb.ModelStatisticsResponse(
        model_stats=[_statistics(model.name, model.version, model.statistics) for model in models]
    )


def _statistics(name: str, version: str, counted: ModelStatistics) -> pb.ModelStatistics:
    stages = counted.decode.seconds + counted.queue.seconds + counted.run.seconds
    output = Total(counted.succeeded.count, max(0.0, counted.succeeded.seconds - stages))
    return pb.ModelStatistics(
        name=name,
        version=version,
        last_inference=counted.last_answer_ms,
        inference_count=counted.images,
        execution_count=counted.batch_count,
        inference_stats=pb.InferStatistics(
            success=_duration(counted.succeeded),
            fail=_duration(counted.failed),
            queue=_duration(counted.queue),
            compute_input=_duration(counted.decode),
            compute_infer=_duration(counted.run),
            compute_output=_duration(output),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=size, compute_infer=_duration(total))
            for size, total in sorted(counted.batches.items())
        ],
    )


def _duration(total: Total) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=total.count, ns=round(total.seconds * 1e9))


def as_json(message: Message) -> dict[str, Any]:
    """A message as Triton writes it over HTTP: every field, and int64 as numbers.

    protobuf's own JSON has int64 as text, which Triton's HTTP client doesn't expect.
    """
    return {
        field.name: _field_as_json(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
    }


def _field_as_json(field: Any, value: Any) -> Any:
    if field.is_repeated:
        return [_value_as_json(field, one) for one in value]
    return _value_as_json(field, value)


def _value_as_json(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return as_json(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value
