"""Load each graph of a bundle that may run on this CPU, time it, and print the fastest as JSON.

    python -m serving.engine.fastest BUNDLE THREADS onnxruntime|openvino

One after another, so that it needs no more memory than serving does.
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from models.bundle.bundle import Bundle, inspect_bundle
from models.bundle.ncnn_graph import ncnn_is_installed
from models.bundle.variants import CpuEngine, Variants
from models.errors import UserError
from serving.engine.choice import Choice, Machine, runs_rightly, with_second
from serving.engine.measured import Fastest
from serving.engine.options import SessionOptions
from serving.engine.providers import CPU
from serving.engine.session import Session

logger = logging.getLogger(__name__)

_BATCH = 8
_ROUNDS = 3
# Speeds within this factor of the best count as equal, and the first wins: float32, then smaller.
_SAME_SPEED = 1.05


def candidates(variants: Variants, engine: CpuEngine, machine: Machine) -> Iterator[Choice]:
    """What may be the fastest here. fp16 is for GPUs; fc4 is smaller than fc8, not faster.

    Args:
        engine: as it is set; onnxruntime leaves it open, since `auto` chooses.
    """
    with_openvino = machine.has_openvino()
    engines: dict[str, list[CpuEngine]] = {
        "float32": ["onnxruntime", "openvino"],
        "fc8": ["onnxruntime"],
        "int8": ["onnxruntime", "openvino"],
        "bf16": ["openvino"] if with_openvino and machine.has_bf16() else [],
        "ncnn": ["ncnn"] if ncnn_is_installed() else [],
    }
    for variant in (None, *variants.variants):
        for one in engines.get(variant.name if variant else "float32", []):
            if one == "openvino" and not with_openvino:
                continue
            if variant is not None and not runs_rightly(variant, machine):
                continue
            if engine in ("onnxruntime", one):
                yield with_second(Choice(variant, one), variants, machine)


def fastest(bundle: Bundle, threads: int, choices: Iterator[Choice]) -> Fastest:
    """By the mean of its times for an image at batch 1 and 8, of those that start here and
    reproduce the golden samples.

    Raises:
        UserError: none does.
    """
    options = SessionOptions([(CPU, {})], None, threads, _BATCH)
    times: dict[str, float] = {}
    by_title: dict[str, Choice] = {}
    for choice in choices:
        title = _title(choice)
        try:
            times[title] = _whole_seconds(bundle, options, choice)
        except UserError as error:
            logger.warning("%s is left out: %s", title, error)
            continue
        by_title[title] = choice
    if not times:
        raise UserError("no graph of the bundle runs here")
    best = next(title for title in times if times[title] <= _SAME_SPEED * min(times.values()))
    choice, slowest = by_title[best], max(times.values())
    why = f"{best} takes {times[best] / slowest:.2f} of the slowest's time on this processor: "
    why += ", ".join(f"{title} {seconds * 1e3:.0f} ms" for title, seconds in times.items())
    return Fastest(
        variant=choice.variant.name if choice.variant else None,
        engine=choice.engine or "onnxruntime",
        why=why + " an image",
    )


def _whole_seconds(bundle: Bundle, options: SessionOptions, choice: Choice) -> float:
    """Of an image, what runs again included: by the share that export found on held-out images,
    since of golden samples there are too few. They run alone, or nearly."""
    first = sum(_seconds(bundle, options, replace(choice, second=None))) / 2
    if choice.second is None or choice.variant is None or choice.variant.cascade is None:
        return first
    alone, _ = _seconds(bundle, options, choice.second)
    return first + choice.variant.cascade.share * alone


def _seconds(bundle: Bundle, options: SessionOptions, choice: Choice) -> tuple[float, float]:
    """Of an image at batch 1 and 8."""
    bundle.check_graph(choice.variant)
    bundle.check_weights(choice.variant)
    session = Session(bundle, options, choice=choice)
    images = list(bundle.golden().images)
    batch = (images * _BATCH)[:_BATCH]
    found = []
    for count in (1, _BATCH):
        times = []
        for round_ in range(_ROUNDS + 1):
            started = time.perf_counter()
            session.run(batch[:count])
            if round_:  # the first one warms up
                times.append((time.perf_counter() - started) / count)
        found.append(statistics.median(times))
    return found[0], found[1]


def _title(choice: Choice) -> str:
    name = choice.variant.name if choice.variant else "float32"
    title = f"{name} on OpenVINO" if choice.engine == "openvino" else name
    if choice.second is None:
        return title
    return f"{title}, again in {'bf16' if choice.second.variant else 'float32'}"


def main() -> None:
    path, threads, engine = sys.argv[1:]
    bundle = inspect_bundle(Path(path))
    wanted: CpuEngine = "openvino" if engine == "openvino" else "onnxruntime"
    choices = candidates(bundle.variants(), wanted, Machine())
    print(fastest(bundle, int(threads), choices).model_dump_json())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
