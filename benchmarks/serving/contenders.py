"""This project and its peers: how each is started, asked and understood."""

from __future__ import annotations

import base64
import json
from typing import Any

from benchmarks.peers import common
from benchmarks.serving import v2
from benchmarks.serving.null_model import SPEC
from benchmarks.serving.running import Contender, best_of_row
from benchmarks.serving.v2 import Body
from benchmarks.serving.workload import Expected

OURS, OURS_NCNN, OURS_INT8 = "this project", "this project on ncnn", "this project in int8"
OURS_BF16, OURS_INT8_OPENVINO = "this project in bf16", "this project in int8 on OpenVINO"
OURS_CASCADE = "this project in int8 on OpenVINO with a second run"
_INT8_TOLERANCE = 0.2  # int8 differs from float32
_BOUNDARY = "benchmark-boundary"
_IMAGES = ("closed", "rate")  # kinds of scenarios that send encoded images
_GRAPH_INPUT = SPEC.input_name  # of model.onnx, for servers that show a graph's own inputs


def _raw(image: bytes) -> Body:
    return Body(image, "image/jpeg")


def _form(image: bytes) -> Body:
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="image.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    content = head.encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return Body(content, f"multipart/form-data; boundary={_BOUNDARY}")


def _v2_base64(image: bytes) -> Body:
    tensor = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode()],
    }
    return Body(json.dumps({"inputs": [tensor]}).encode(), "application/json")


def _pixels(image: bytes) -> Body:
    return v2.one_image_of_pixels(common.decode(image), _GRAPH_INPUT)


def _instances(image: bytes) -> Body:
    instance = {"b64": base64.b64encode(image).decode()}
    return Body(json.dumps({"instances": [instance]}).encode(), "application/json")


def _ours_best(reply: Any) -> Expected:
    return _plain_best(reply["images"][0])


def _plain_best(reply: Any) -> Expected:
    best = (reply[0] if isinstance(reply, list) else reply)["predictions"][0]
    return Expected(best["label"], best["probability"])


def _v2_best(reply: Any) -> Expected:
    row = next(output["data"] for output in reply["outputs"] if output["name"] == "probabilities")
    return best_of_row(row)


def _instances_best(reply: Any) -> Expected:
    return best_of_row(reply["predictions"][0])


_SERVER = ("python", "{peer}/server.py")
_RAW = ("/classify", _raw)
_V2_SERVER = ("/v2/models/vgg19/infer", _pixels, _v2_best)
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(
            OURS, None, (), *_RAW, _ours_best,
            r'vgg19_requests_total\{(?=.*transport="grpc")(?=.*outcome="ok")', pixels="pixels",
        ),
        Contender(
            OURS_NCNN, None, (), *_RAW, _ours_best,
            settings={"VGG19_CPU_ENGINE": "ncnn"}, models=("real",),
        ),
        Contender(
            OURS_INT8, None, (), *_RAW, _ours_best,
            settings={"VGG19_PRECISION": "int8"}, models=("real",), tolerance=_INT8_TOLERANCE,
        ),
        Contender(
            OURS_BF16, None, (), *_RAW, _ours_best,
            settings={"VGG19_PRECISION": "bf16"}, models=("real",),
        ),
        Contender(
            OURS_INT8_OPENVINO, None, (), *_RAW, _ours_best,
            settings={"VGG19_PRECISION": "int8", "VGG19_CPU_ENGINE": "openvino"},
            models=("real",), tolerance=_INT8_TOLERANCE,
        ),
        Contender(
            OURS_CASCADE, None, (), *_RAW, _ours_best,
            settings={"VGG19_PRECISION": "int8", "VGG19_CPU_ENGINE": "openvino"},
            models=("real",), tolerance=_INT8_TOLERANCE, cascade=True,
        ),
        Contender("FastAPI", "fastapi_plain", _SERVER, *_RAW, _plain_best),
        Contender(
            "BentoML batchable", "bentoml_batchable",
            ("bentoml", "serve", "server:Classifier", "--working-dir", "{peer}",
             "--host", "127.0.0.1", "--port", "{port}"),
            "/classify", _form, _plain_best,
        ),
        Contender("LitServe", "lit_serve", _SERVER, *_RAW, _plain_best),
        Contender(
            "MLServer", "ml_server", ("mlserver", "start", "{peer}"),
            "/v2/models/vgg19/infer", _v2_base64, _v2_best,
            r'grpc_server_handled_total\{(?=.*grpc_code="OK")(?=.*ModelInfer)',
        ),
        Contender("Ray Serve", "ray_serve", _SERVER, *_RAW, _plain_best),
        Contender(
            "TorchServe", "torch_serve", ("python", "{peer}/start.py"),
            "/predictions/vgg19", _raw, _plain_best,
            skips=("rate",),  # its status lines have no reason, and h2load then reads no status
            needs={"java": "openjdk-17-jre-headless"},
        ),
        Contender(
            "mosec", "mosec_pipeline",
            (*_SERVER, "--address", "127.0.0.1", "--port", "{port}", "--timeout", "120000",
             "--log-level", "warning"),
            *_RAW, _plain_best,
        ),
        Contender(
            "PyTriton", "py_triton", _SERVER, "/v2/models/vgg19/infer", v2.one_image, _v2_best,
            r"nv_inference_request_success\{",
        ),
        Contender(
            "Fastify", "fastify", ("node", "{peer}/server.js"), *_RAW, _plain_best,
            needs={"node": "nodejs", "npm": "npm"},
        ),
        Contender("Triton", "triton", (), *_V2_SERVER, skips=_IMAGES, pixels=_GRAPH_INPUT),
        Contender(
            "OpenVINO Model Server", "ovms", (), *_V2_SERVER, skips=_IMAGES, pixels=_GRAPH_INPUT
        ),
        Contender(
            "TensorFlow Serving", "tf_serving", (), "/v1/models/vgg19:predict", _instances,
            _instances_best,
        ),
    )
}  # fmt: skip
