"""Does the running service serve this version, and does it answer as PyTorch did?

Asked over the network on both transports, with the golden samples of the bundle.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.bundle.bundle import Bundle
from models.bundle.golden import GoldenSamples
from models.errors import UserError
from models.registry.store import MODEL_NAME
from protocol import open_inference_pb2 as pb
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from training.loop.paths import LocalPath

_POLL_S = 0.5
_CALL_TIMEOUT_S = 30.0


class SmokeTestError(UserError):
    """The service doesn't serve the version, or serves it wrongly."""


class ServiceConfig(BaseModel):
    """A running service, as the job reaches it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    http: str = Field(description="such as http://127.0.0.1:3000")
    grpc: str | None = Field(default=None, description="such as 127.0.0.1:3001; null: HTTP only")
    api_key_env: str | None = Field(
        default=None, description="environment variable that holds the API key"
    )
    grpc_ca: LocalPath | None = Field(
        default=None, description="PEM file of the authority of the gRPC server's certificate"
    )

    def authorization(self) -> dict[str, str]:
        """The header of the key; none where no variable is named.

        Raises:
            SmokeTestError: what the variable holds is no key; the message doesn't repeat it.
        """
        if self.api_key_env is None:
            return {}
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise SmokeTestError(f"{self.api_key_env} is not set; it is to hold the API key")
        if not key.isascii() or not key.isprintable():
            raise SmokeTestError(f"{self.api_key_env} holds no key; 'vgg19 key' makes one")
        return {"authorization": f"Bearer {key}"}


def smoke_test(service: ServiceConfig, bundle: Bundle, version: str, timeout_s: float) -> None:
    """Wait until the service serves `version`, then compare its answers to the golden samples.

    Raises:
        SmokeTestError: it isn't served in time, can't be loaded there, or answers otherwise.
    """
    golden = bundle.golden()
    with (
        httpx.Client(
            base_url=service.http, headers=service.authorization(), timeout=_CALL_TIMEOUT_S
        ) as client,
        _grpc_stub(service) as stub,
    ):
        _wait(client, stub, service, version, timeout_s)
        _compare(_infer_http(client, golden, version), golden, f"HTTP at {service.http}")
        if stub is not None:
            answers = _infer_grpc(stub, golden, version, service)
            _compare(answers, golden, f"gRPC at {service.grpc}")


def _wait(
    client: httpx.Client,
    stub: GRPCInferenceServiceStub | None,
    service: ServiceConfig,
    version: str,
    timeout_s: float,
) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        seen = _served(client, version)
        if seen == version and (stub is None or _grpc_ready(stub, service, version)):
            return
        if time.monotonic() > deadline:
            raise SmokeTestError(
                f"{service.http} doesn't serve {MODEL_NAME}:{version} after {timeout_s:g} s "
                f"(it serves {seen}); does it use this store, and VGG19_MODEL=production?"
            )
        time.sleep(_POLL_S)


def _served(client: httpx.Client, version: str) -> str:
    """The version that answers, or what was there instead of an answer.

    Raises:
        SmokeTestError: the service has tried `version`, and couldn't load it.
    """
    try:
        response = client.get("/model")
        content: Any = response.json()
    except (httpx.HTTPError, ValueError) as error:
        return f"nothing: {error}"
    if response.status_code in (401, 403):
        raise SmokeTestError(f"{client.base_url} refuses: {content.get('detail')}")
    if response.status_code != httpx.codes.OK or not isinstance(content, dict):
        return f"nothing: status {response.status_code}"
    failed = content.get("failed_load")
    if failed and failed["version"] == version:
        raise SmokeTestError(f"{client.base_url} can't load {version}: {failed['reason']}")
    return str(content.get("version"))


def _infer_http(client: httpx.Client, golden: GoldenSamples, version: str) -> NDArray[np.float32]:
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "pixels",
                    "datatype": "UINT8",
                    "shape": list(golden.images.shape),
                    "parameters": {"binary_data_size": golden.images.nbytes},
                }
            ],
            "outputs": [{"name": "probabilities"}],
        }
    ).encode()
    response = client.post(
        f"/v2/models/{MODEL_NAME}/versions/{version}/infer",
        content=header + golden.images.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(header))},
    )
    if response.status_code != httpx.codes.OK:
        raise SmokeTestError(
            f"{client.base_url} answers {response.status_code}: {response.text[:200]}"
        )
    output = response.json()["outputs"][0]
    return np.array(output["data"], np.float32).reshape(output["shape"])


@contextmanager
def _grpc_stub(service: ServiceConfig) -> Iterator[GRPCInferenceServiceStub | None]:
    if service.grpc is None:
        yield None
        return
    # The golden samples of a 224 px model are 1.2 MB; gRPC's default limit is 4.
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    if service.grpc_ca is None:
        channel = grpc.insecure_channel(service.grpc, options)
    else:
        credentials = grpc.ssl_channel_credentials(service.grpc_ca.read_bytes())
        channel = grpc.secure_channel(service.grpc, credentials, options)
    with channel:
        yield GRPCInferenceServiceStub(channel)


def _grpc_ready(stub: GRPCInferenceServiceStub, service: ServiceConfig, version: str) -> bool:
    try:
        request = pb.ModelReadyRequest(name=MODEL_NAME, version=version)
        reply = stub.ModelReady(
            request, timeout=_CALL_TIMEOUT_S, metadata=tuple(service.authorization().items())
        )
    except grpc.RpcError:
        return False
    return bool(reply.ready)


def _infer_grpc(
    stub: GRPCInferenceServiceStub, golden: GoldenSamples, version: str, service: ServiceConfig
) -> NDArray[np.float32]:
    request = pb.ModelInferRequest(model_name=MODEL_NAME, model_version=version)
    request.inputs.add(name="pixels", datatype="UINT8", shape=golden.images.shape)
    request.outputs.add(name="probabilities")
    request.raw_input_contents.append(golden.images.tobytes())
    try:
        reply = stub.ModelInfer(
            request, timeout=_CALL_TIMEOUT_S, metadata=tuple(service.authorization().items())
        )
    except grpc.RpcError as error:
        raise SmokeTestError(f"gRPC at {service.grpc}: {error}") from None
    values = np.frombuffer(reply.raw_output_contents[0], np.float32)
    return values.reshape(list(reply.outputs[0].shape))


def _compare(answers: NDArray[np.float32], golden: GoldenSamples, where: str) -> None:
    if answers.shape != golden.probabilities.shape:
        raise SmokeTestError(f"{where} answers in shape {list(answers.shape)}")
    difference = float(np.abs(answers - golden.probabilities).max())
    if not difference <= golden.tolerance:  # NaN fails, too
        raise SmokeTestError(
            f"{where} differs from the golden samples by {difference:.1e}, the limit is "
            f"{golden.tolerance:.0e}"
        )
