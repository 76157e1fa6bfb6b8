"""A review of coloured images, whose features are their pixels: no network is run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from models.imaging.image import load_image
from models.imaging.preprocessing import Preprocessing
from review.journal import Journal
from review.pool import Item, Pool
from review.session import Session
from testing.images import COLOURS, coloured_pixels, encode
from training.review.jobs import Jobs
from training.review.pool import NetworkPool
from training.review.workbench import LocalWorkbench

RULE = Preprocessing(image_size=32, resize_size=40)


def colour_of(number: int) -> str:
    return COLOURS[number % 3]


def make_pool(
    folder: Path, *, known: int = 0, new: int = 0, wrong: tuple[int, ...] = (), size: int = 48
) -> NetworkPool:
    """Images 0 ... known - 1 have labels, those in `wrong` a wrong one; `new` more have none."""
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for number in range(known + new):
        path = folder / f"{number:03}.png"
        path.write_bytes(encode(coloured_pixels(number, colour_of(number), size)))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        given = None if number >= known else colour_of(number + (number in wrong))
        source = "folder" if given is None else "data"
        items.append(Item(digest, path, path.name, source, given, digest))  # type: ignore[arg-type]
    features = np.stack([load_image(item.path, RULE).mean(axis=(0, 1)) for item in items])
    nothing = cast(Any, None)
    values = {"pixels": features / 255}
    return NetworkPool(tuple(items), values, RULE, {}, nothing, nn.Identity(), None)


def make_session(pool: Pool, folder: Path, **options: Any) -> Session:
    folder.mkdir(parents=True, exist_ok=True)
    jobs = Jobs({}, folder / "labels.csv", folder / "jobs.log")
    workbench = LocalWorkbench(cast(NetworkPool, pool), jobs)
    return Session(pool, Journal(folder / "decisions.jsonl"), workbench=workbench, **options)
