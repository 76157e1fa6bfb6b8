"""Ray Serve: replicas whose requests are batched by `@serve.batch`."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.common import decode, load, reply


# Its default of 5 requests at once would keep batches small.
@serve.deployment(num_replicas=int(os.environ["WORKERS"]), max_ongoing_requests=256)
class Classifier:
    def __init__(self) -> None:
        self.model = load()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def classify(self, bodies: list[bytes]) -> list[dict[str, Any]]:
        probabilities = self.model.run([decode(body) for body in bodies])
        return [reply(self.model.labels, row) for row in probabilities]

    async def __call__(self, request: Request) -> dict[str, Any]:
        result: dict[str, Any] = await self.classify(await request.body())
        return result


if __name__ == "__main__":
    deployment: Any = Classifier  # what the decorator made of it
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(
        deployment.bind(),
        route_prefix="/classify",
        logging_config={"enable_access_log": False},
        blocking=True,
    )
