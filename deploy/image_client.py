"""Asks the image under test on both transports, and compares with what the model must answer.

python deploy/image_client.py HTTP_URL GRPC_ADDRESS VERSION
"""

from __future__ import annotations

import sys

import grpc
import httpx
import numpy as np

from protocol import open_inference_pb2 as pb
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from testing.bundles import tiny_probabilities
from testing.images import coloured_pixels, encode


def main(url: str, address: str, version: str) -> None:
    pixels = np.stack([coloured_pixels(seed) for seed in range(3)])
    expected = tiny_probabilities(pixels)
    model = httpx.get(f"{url}/model").json()
    assert model["version"] == version, model
    files = [("image", (f"{i}.png", encode(image))) for i, image in enumerate(pixels)]
    reply = httpx.post(f"{url}/classify?top_k=3", files=files, timeout=30).json()
    for image, row in zip(reply["images"], expected, strict=True):
        found = sorted(image["predictions"], key=lambda p: p["index"])
        np.testing.assert_allclose([p["probability"] for p in found], row, atol=1e-6)
    print(f"HTTP: {version} answers as it must")
    request = pb.ModelInferRequest(model_name="vgg19")
    request.inputs.add(name="pixels", datatype="UINT8", shape=pixels.shape)
    request.raw_input_contents.append(pixels.tobytes())
    with grpc.insecure_channel(address) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
    assert answer.model_version == version
    rows = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(expected.shape)
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    print(f"gRPC: {version} answers as it must")


if __name__ == "__main__":
    main(*sys.argv[1:])
