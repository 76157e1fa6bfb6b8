"""What the v2 protocol tells about a model: metadata, configuration, statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from protocol import open_inference_pb2 as pb
from serving.core.served_model import ServedModel
from serving.core.statistics import ModelStatistics, Total
from serving.core.tensors import INPUTS, InputTensor, OutputTensor, outputs_of
from serving.engine.providers import engine_name

SERVER_NAME = "vgg19-finetune"
# Engine -> platform. Triton has names for these but for ncnn.
_PLATFORMS = {
    "onnxruntime": "onnxruntime_onnx",
    "ncnn": "ncnn",
    "openvino": "openvino",
}
# What goes beyond the protocol itself, by the names that Triton gave it.
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
)

_TYPES = {
    "BOOL": pb.TYPE_BOOL, "BYTES": pb.TYPE_STRING, "FP32": pb.TYPE_FP32, "UINT8": pb.TYPE_UINT8
}  # fmt: skip


def model_metadata(model: ServedModel, versions: Sequence[str]) -> pb.ModelMetadataResponse:
    """Names, types and shapes of the tensors; -1 is any number of images."""

    def told(tensor: InputTensor | OutputTensor) -> pb.ModelMetadataResponse.TensorMetadata:
        return pb.ModelMetadataResponse.TensorMetadata(
            name=tensor.name, datatype=tensor.datatype, shape=[-1, *tensor.dims(model)]
        )

    return pb.ModelMetadataResponse(
        name=model.name,
        versions=versions,
        platform=_PLATFORMS[engine_name(model.provider)],
        inputs=map(told, INPUTS),
        outputs=map(told, outputs_of(model)),
    )


def model_config(model: ServedModel) -> pb.ModelConfig:
    """In the terms of Triton's model configuration; one of the two inputs is given."""
    inputs = [
        pb.ModelInput(
            name=tensor.name,
            data_type=_TYPES[tensor.datatype],
            dims=tensor.dims(model) or [1],
            optional=True,
        )
        for tensor in INPUTS
    ]
    outputs = [
        pb.ModelOutput(
            name=tensor.name,
            data_type=_TYPES[tensor.datatype],
            dims=tensor.dims(model) or [1],
        )
        for tensor in outputs_of(model)
    ]
    engine = engine_name(model.provider)
    delay_us = round(model.batcher.max_delay_s * 1e6)
    return pb.ModelConfig(
        name=model.name,
        platform=_PLATFORMS[engine],
        backend=engine,
        max_batch_size=model.batcher.max_batch_size,
        input=inputs,
        output=outputs,
        dynamic_batching=pb.ModelDynamicBatching(max_queue_delay_microseconds=delay_us),
    )


def model_statistics(models: Sequence[ServedModel]) -> pb.ModelStatisticsResponse:
    """What each of these models has answered since it was loaded, in this worker."""
    return pb.ModelStatisticsResponse(
        model_stats=[_statistics(model.name, model.version, model.statistics) for model in models]
    )


def _statistics(name: str, version: str, counted: ModelStatistics) -> pb.ModelStatistics:
    stages = counted.decode.seconds + counted.queue.seconds + counted.inference.seconds
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
            compute_infer=_duration(counted.inference),
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
