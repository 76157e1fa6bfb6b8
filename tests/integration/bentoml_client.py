"""Classifies an image with BentoML's two clients; prints the answers.

A script of its own: these clients use what is deprecated, and leave a folder to be cleaned up.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import bentoml


async def ask(url: str, image: Path) -> Any:
    async with bentoml.AsyncHTTPClient(url) as client:
        return await client.classify(image=image)


if __name__ == "__main__":
    url, image = sys.argv[1], Path(sys.argv[2])
    with bentoml.SyncHTTPClient(url) as client:
        answers = {
            "sync": client.classify(image=image),
            "options": client.classify(image=image, top_k=1, threshold=0.5),
        }
    answers["async"] = asyncio.run(ask(url, image))
    print(json.dumps(answers))
