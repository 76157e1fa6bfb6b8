"""Makes every call of one of Triton's four clients that this service answers; prints what came.

    python -m tests.integration.triton_tour {grpc,grpc-aio,http,http-aio} ADDRESS ADMIN_KEY IMAGE...

A script of its own, for the reason that `triton_client` has.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import queue
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from PIL import Image
from tritonclient.utils import InferenceServerException

from testing.waiting import HANG_S

CLIENTS = {
    "grpc": tritonclient.grpc,
    "grpc-aio": tritonclient.grpc.aio,
    "http": tritonclient.http,
    "http-aio": tritonclient.http.aio,
}


async def done(value: Any) -> Any:
    """What a call of a sync or an async client gives."""
    return await value if inspect.isawaitable(value) else value


async def tour(kind: str, address: str, admin_key: str, files: list[str]) -> dict[str, Any]:
    module: Any = CLIENTS[kind]
    client = module.InferenceServerClient(address)
    images = [Path(file).read_bytes() for file in files]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    as_json = {"as_json": True} if kind.startswith("grpc") else {}
    seen: dict[str, Any] = {
        "live": await done(client.is_server_live()),
        "ready": await done(client.is_server_ready()),
        "model_ready": await done(client.is_model_ready("vgg19")),
        "other_ready": await done(client.is_model_ready("resnet")),
        "server": await done(client.get_server_metadata(**as_json)),
        "metadata": await done(client.get_model_metadata("vgg19", **as_json)),
        "config": await done(client.get_model_config("vgg19", **as_json)),
    }
    encoded = module.InferInput("image", [len(images)], "BYTES")
    encoded.set_data_from_numpy(np.array(images, dtype=object))
    decoded = module.InferInput("pixels", list(pixels.shape), "UINT8")
    decoded.set_data_from_numpy(pixels)
    seen["encoded"] = result(await done(client.infer("vgg19", [encoded], request_id="r1")))
    seen["decoded"] = result(await done(client.infer("vgg19", [decoded])))
    classes = module.InferRequestedOutput("probabilities", class_count=2)
    counted = await done(client.infer("vgg19", [decoded], outputs=[classes]))
    seen["classes"] = [[c.decode() for c in row] for row in counted.as_numpy("probabilities")]
    if kind.startswith("http"):
        for coding in ("gzip", "deflate"):
            answer = client.infer("vgg19", [decoded], request_compression_algorithm=coding)
            seen[coding] = result(await done(answer))
        plain = module.InferInput("pixels", list(pixels.shape), "UINT8")
        plain.set_data_from_numpy(pixels, binary_data=False)
        outputs = [
            module.InferRequestedOutput(name, binary_data=False)
            for name in ("probabilities", "label")
        ]
        seen["json"] = result(await done(client.infer("vgg19", [plain], outputs=outputs)))
    try:
        await done(client.infer("resnet", [encoded]))
    except InferenceServerException as error:
        seen["error"] = error.message()
    seen["statistics"] = await done(client.get_inference_statistics("vgg19", **as_json))
    seen["repository"] = await repository(client, admin_key, as_json)
    if kind == "grpc":
        seen["stream"] = stream(client, decoded)
    elif kind == "grpc-aio":
        seen["stream"] = await stream_async(client, decoded)
    await done(client.close())
    return seen


def result(reply: Any) -> dict[str, Any]:
    response = reply.get_response()
    return {
        "id": response.get("id", "") if isinstance(response, dict) else response.id,
        "probabilities": reply.as_numpy("probabilities").tolist(),
        "label": [
            label.decode() if isinstance(label, bytes) else label
            for label in reply.as_numpy("label")
        ],
    }


async def repository(client: Any, admin_key: str, as_json: dict[str, Any]) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {admin_key}"}  # gRPC wants it in lower case
    try:
        await done(client.get_model_repository_index())
        refused = ""
    except InferenceServerException as error:
        refused = error.message()
    index = await done(client.get_model_repository_index(headers=headers, **as_json))
    await done(client.load_model("vgg19", headers=headers))
    try:
        await done(client.unload_model("vgg19", headers=headers))
        kept = ""
    except InferenceServerException as error:
        kept = error.message()
    return {"refused": refused, "index": index, "kept": kept}


def stream(client: Any, tensor: Any) -> list[str]:
    replies: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: replies.put((result, error)))
    for number, model in enumerate(["vgg19", "resnet", "vgg19"]):
        client.async_stream_infer(model, [tensor], request_id=str(number))
    seen = [replies.get(timeout=HANG_S) for _ in range(3)]
    client.stop_stream()
    return [error.message() if error else reply.get_response().id for reply, error in seen]


async def stream_async(client: Any, tensor: Any) -> list[str]:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, model in enumerate(["vgg19", "resnet", "vgg19"]):
            yield {"model_name": model, "inputs": [tensor], "request_id": str(number)}

    return [
        error.message() if error else reply.get_response().id
        async for reply, error in client.stream_infer(requests())
    ]


if __name__ == "__main__":
    kind, address, admin_key, *files = sys.argv[1:]
    print(json.dumps(asyncio.run(tour(kind, address, admin_key, files))))
