"""Sends image files with Triton's client and prints the answers as JSON.

A script of its own: the client registers the same protobuf names as this project's own code, and
one process can't have both.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient import grpc
from tritonclient.utils import InferenceServerException


def main(address: str, mode: str, *files: str) -> Any:
    if mode == "until":
        return ask_until(address, Path(files[0]).read_bytes(), Path(files[1]))
    images = [Path(file).read_bytes() for file in files]
    with grpc.InferenceServerClient(address) as client:
        if mode == "metadata":
            return metadata(client)
        if mode == "batch":
            return infer(client, images)
        with ThreadPoolExecutor(len(images)) as pool:  # each image in a call of its own
            return list(pool.map(lambda image: infer(client, [image]), images))


def ask_until(address: str, image: bytes, stop: Path) -> dict[str, int]:
    """Ask again and again until the file `stop` appears; answers by version (errors by status)."""
    seen: Counter[str] = Counter()
    with grpc.InferenceServerClient(address) as client:
        while not stop.exists():
            reply = infer(client, [image])
            seen[reply.get("version") or reply["status"]] += 1
    return dict(seen)


def infer(client: grpc.InferenceServerClient, images: list[bytes]) -> Any:
    tensor = grpc.InferInput("image", [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object))
    try:
        reply = client.infer("vgg19", [tensor], request_id="r1")
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    response = reply.get_response()
    return {
        "version": response.model_version,
        "id": response.id,
        "probabilities": reply.as_numpy("probabilities").tolist(),
        "label": [label.decode() for label in reply.as_numpy("label")],
    }


def metadata(client: grpc.InferenceServerClient) -> Any:
    model = client.get_model_metadata("vgg19", as_json=True)
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("vgg19"),
        "other_ready": client.is_model_ready("resnet"),
        "server": client.get_server_metadata(as_json=True),
        "model": model,
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
