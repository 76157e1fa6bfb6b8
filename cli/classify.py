"""`vgg19 classify`: what a running service says of image files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cli.client import ClientError, Service
from cli.common import say
from models.bundle.spec import ModelSpec
from models.imaging.image import load_image
from models.imaging.overlay import overlaid
from models.imaging.preprocessing import Preprocessing
from models.text import shown
from serving.offline.files import find_files


def classify(service: Service, sources: Sequence[str], top_k: int, heat_maps: Path | None) -> int:
    """Print a line for each image of files, folders and patterns.

    Args:
        heat_maps: folder for the images under their heat maps; None: none are made.

    Returns:
        how many have no answer.

    Raises:
        ClientError: see `Service`; or the folder can't be written.
        PredictError: a source has no images.
    """
    files = [Path(file) for file in find_files(sources, lambda line: say(shown(line)))]
    draw = (
        None if heat_maps is None else partial(_draw, _preprocessing(service, heat_maps), heat_maps)
    )
    failed = 0
    for answer in service.classify(files, top_k, explain=heat_maps is not None):
        if answer.reply is None:
            failed += 1
            say(shown(f"{answer.file}: {answer.error}"))
            continue
        say(shown(f"{answer.file}: {_line(answer.reply)}"))
        if draw is not None:
            draw(answer.file, answer.reply)
    if service.model:
        say(f"answered by {service.model}")
    if heat_maps is not None and failed < len(files):
        say(f"heat maps are in {heat_maps}")
    return failed


def _line(reply: dict[str, Any]) -> str:
    words = [f"{p['label']} {p['probability']:.1%}" for p in reply["predictions"]]
    if not reply.get("accepted", True):
        distance = reply.get("distance")
        words.append("not accepted" if distance is None else f"not accepted, distance {distance}")
    return "  ".join(words)


def _preprocessing(service: Service, folder: Path) -> Preprocessing:
    """Of the model: its heat maps lie over what it sees of an image."""
    described = service.described()
    if not described["heat_maps"]:
        raise ClientError(
            f"{service.url} has no heat maps: VGG19_HEAT_MAPS is off there, or its model has none"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClientError(f"--heat-maps {folder} can't be made: {error.strerror}") from None
    return ModelSpec.model_validate(described["spec"]).preprocessing


def _draw(rule: Preprocessing, folder: Path, file: Path, reply: dict[str, Any]) -> None:
    """As `rose.1.jpg.png`, after the file's own name."""
    values = np.asarray(reply["heatmap"]["values"], np.float32)
    picture = overlaid(load_image(file, rule), values)
    place = folder / f"{file.name}.png"
    number = 1
    while place.exists():  # of another folder
        number += 1
        place = folder / f"{file.name}.{number}.png"
    Image.fromarray(picture).save(place)
