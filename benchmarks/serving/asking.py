"""Loads a server that runs as a scenario says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.serving import v2
from benchmarks.serving.load import (
    Load,
    closed_loop,
    constant_rate,
    grpc_closed_loop,
    infer_request,
)
from benchmarks.serving.null_model import SPEC
from benchmarks.serving.running import GRPC_METHOD, Running
from benchmarks.serving.scenarios import V2, Scenario
from benchmarks.serving.workload import Expected
from models.imaging.image import load_image
from models.imaging.preprocessing import Preprocessing


def ask(
    running: Running,
    scenario: Scenario,
    images: Mapping[str, bytes],
    right: Expected,
    seconds: float,
    rate: float,
) -> Load:
    """Args: right: answer of the scenario's image. rate: of a constant one, a second."""
    image = images[scenario.image]
    if scenario.kind == "closed":
        at_least = max(seconds, scenario.at_least_s)
        also = images[scenario.also] if scenario.also else None
        return ask_in_a_loop(running, image, scenario.connections, at_least, also)
    if scenario.kind == "rate":
        body = running.contender.encode(image)
        return constant_rate(
            running.url, body.content, body.content_type, rate, seconds, body.headers
        )
    if scenario.kind in V2:
        return _ask_v2(running, scenario, image, right, seconds)
    return _ask_grpc(running, scenario, image, right, seconds)


def ask_in_a_loop(
    running: Running, image: bytes, connections: int, seconds: float, also: bytes | None = None
) -> Load:
    """Args: also: sent by one request in `benchmarks.serving.load.ONE_IN` instead."""
    encode = running.contender.encode
    body = encode(image)
    return closed_loop(
        running.url,
        body.content,
        body.content_type,
        connections,
        seconds,
        body.headers,
        None if also is None else encode(also),
    )


def answers_per_second(scenario: Scenario, load: Load) -> float:
    """Good ones."""
    if scenario.at_least_s and not load.errors:
        return load.steady_rate(scenario.connections)
    failed = (
        load.errors if scenario.kind in ("closed", *V2) else 0
    )  # elsewhere they aren't in `requests`
    return (load.requests - failed) / load.seconds


def _ask_v2(
    running: Running, scenario: Scenario, image: bytes, right: Expected, seconds: float
) -> Load:
    pixels = np.stack([load_image(image, Preprocessing())] * scenario.pixel_images)
    name = running.contender.pixels
    assert name is not None
    body = v2.body_of(scenario.kind, pixels, name)
    for index, probability in v2.best_of(running.base, body):
        running.compare(Expected(SPEC.labels[index], probability), right)
    return closed_loop(
        running.base + v2.PATH, body.content, body.content_type, scenario.connections,
        max(seconds, scenario.at_least_s), body.headers,
    )  # fmt: skip


def _ask_grpc(
    running: Running, scenario: Scenario, image: bytes, right: Expected, seconds: float
) -> Load:
    running.check_grpc(image, right)
    before = running.answered_calls()
    load = grpc_closed_loop(
        running.grpc_address,
        GRPC_METHOD,
        infer_request(image).SerializeToString(),
        scenario.connections,
        seconds,
    )
    answered = running.answered_calls() - before
    if answered < load.requests:  # more: the calls that were under way at the end
        raise RuntimeError(f"answered {answered:.0f} calls well of {load.requests}")
    return load
