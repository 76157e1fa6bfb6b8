"""FastAPI and ONNX Runtime, no batching: what most people write first."""

from __future__ import annotations

import os
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from benchmarks.peers.common import decode, load, reply

app = FastAPI()
model = load()


def classify(data: bytes) -> dict[str, Any]:
    return reply(model.labels, model.run([decode(data)])[0])


@app.post("/classify")
async def route(request: Request) -> dict[str, Any]:
    answer: dict[str, Any] = await run_in_threadpool(classify, await request.body())
    return answer


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=False)
