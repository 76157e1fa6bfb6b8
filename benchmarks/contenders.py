"""This project and its peers: how each is started, asked and understood."""

from __future__ import annotations

import base64
import json
from typing import Any

from benchmarks.running import Contender, best_of_row
from benchmarks.workload import Expected

OURS, OURS_NCNN, OURS_INT8 = "this project", "this project on ncnn", "this project in int8"
OURS_BF16, OURS_INT8_OPENVINO = "this project in bf16", "this project in int8 on OpenVINO"
_INT8_TOLERANCE = 0.2  # int8 differs from float32
_BOUNDARY = "benchmark-boundary"


def _same(image: bytes) -> bytes:
    return image


def _form(image: bytes) -> bytes:
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="image.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()


def _v2(image: bytes) -> bytes:
    tensor = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode()],
    }
    return json.dumps({"inputs": [tensor]}).encode()


def _ours_best(reply: Any) -> Expected:
    return _plain_best(reply["images"][0])


def _plain_best(reply: Any) -> Expected:
    best = (reply[0] if isinstance(reply, list) else reply)["predictions"][0]
    return Expected(best["label"], best["probability"])


def _v2_best(reply: Any) -> Expected:
    return best_of_row(reply["outputs"][0]["data"])


_SERVER = ("python", "{peer}/server.py")
_RAW = ("/classify", "image/jpeg", _same)
_FORM = ("/classify", f"multipart/form-data; boundary={_BOUNDARY}", _form)
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(
            OURS, None, (), *_RAW, _ours_best,
            r'vgg19_requests_total\{(?=.*transport="grpc")(?=.*outcome="ok")',
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
        Contender("FastAPI", "fastapi_plain", _SERVER, *_RAW, _plain_best),
        Contender(
            "BentoML batchable", "bentoml_batchable",
            ("bentoml", "serve", "server:Classifier", "--working-dir", "{peer}",
             "--host", "127.0.0.1", "--port", "{port}"),
            *_FORM, _plain_best,
        ),
        Contender("LitServe", "lit_serve", _SERVER, *_RAW, _plain_best),
        Contender(
            "MLServer", "ml_server", ("mlserver", "start", "{peer}"),
            "/v2/models/vgg19/infer", "application/json", _v2, _v2_best,
            r'grpc_server_handled_total\{(?=.*grpc_code="OK")(?=.*ModelInfer)',
        ),
        Contender("Ray Serve", "ray_serve", _SERVER, *_RAW, _plain_best),
    )
}  # fmt: skip
