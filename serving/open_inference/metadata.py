"""What the v2 protocol tells about the server and a model: metadata, configuration, statistics.

Plain dicts, with names and values as Triton writes them in JSON: HTTP sends them as they are, and a
message of gRPC is made of them, since its fields have the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.core.served_model import ServedModel
from serving.core.statistics import ModelStatistics, Total
from serving.core.tensors import INPUTS, Datatype, InputTensor, OutputTensor, outputs_of
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

# As Triton's configuration calls them.
_TYPES: dict[Datatype, str] = {
    "BOOL": "TYPE_BOOL",
    "BYTES": "TYPE_STRING",
    "FP32": "TYPE_FP32",
    "UINT8": "TYPE_UINT8",
}

Info = dict[str, Any]


def server_metadata(version: str) -> Info:
    """version: of this project."""
    return {"name": SERVER_NAME, "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(model: ServedModel, versions: Sequence[str]) -> Info:
    """Names, types and shapes of the tensors; -1 is any number of images."""

    def told(tensor: InputTensor | OutputTensor) -> Info:
        shape = [-1, *tensor.dims(model)]
        return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape}

    return {
        "name": model.name,
        "versions": list(versions),
        "platform": _PLATFORMS[engine_name(model.provider)],
        "inputs": [told(tensor) for tensor in INPUTS],
        "outputs": [told(tensor) for tensor in outputs_of(model)],
    }


def model_config(model: ServedModel) -> Info:
    """In the terms of Triton's model configuration; one of the two inputs is given."""

    def told(tensor: InputTensor | OutputTensor) -> Info:
        dims = tensor.dims(model) or [1]
        return {"name": tensor.name, "data_type": _TYPES[tensor.datatype], "dims": dims}

    engine = engine_name(model.provider)
    delay_us = round(model.batcher.max_delay_s * 1e6)
    return {
        "name": model.name,
        "platform": _PLATFORMS[engine],
        "max_batch_size": model.batcher.max_batch_size,
        "input": [told(tensor) | {"optional": True} for tensor in INPUTS],
        "output": [told(tensor) for tensor in outputs_of(model)],
        "dynamic_batching": {"max_queue_delay_microseconds": delay_us},
        "backend": engine,
    }


def model_statistics(models: Sequence[ServedModel]) -> Info:
    """What each of these models has answered since it was loaded, in this worker."""
    return {"model_stats": [_statistics(m.name, m.version, m.statistics) for m in models]}


def _statistics(name: str, version: str, counted: ModelStatistics) -> Info:
    stages = counted.decode.seconds + counted.queue.seconds + counted.inference.seconds
    output = Total(counted.succeeded.count, max(0.0, counted.succeeded.seconds - stages))
    return {
        "name": name,
        "version": version,
        "last_inference": counted.last_answer_ms,
        "inference_count": counted.images,
        "execution_count": counted.batch_count,
        "inference_stats": {
            "success": _duration(counted.succeeded),
            "fail": _duration(counted.failed),
            "queue": _duration(counted.queue),
            "compute_input": _duration(counted.decode),
            "compute_infer": _duration(counted.inference),
            "compute_output": _duration(output),
        },
        "batch_stats": [
            {"batch_size": size, "compute_infer": _duration(total)}
            for size, total in sorted(counted.batches.items())
        ],
    }


def _duration(total: Total) -> Info:
    return {"count": total.count, "ns": round(total.seconds * 1e9)}
