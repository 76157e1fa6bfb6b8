"""What servers are asked in the serving benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.serving import v2
from benchmarks.serving.workload import LARGE, OTHER, SMALL, USUAL

_PIXEL_IMAGES = 16
V2 = (v2.JSON, v2.BINARY)


@dataclass(frozen=True)
class Scenario:
    """kind: `closed` (loop), `rate` (constant), `grpc` (closed loop), or one of
    `benchmarks.serving.v2`: a closed loop of requests of `pixel_images` images each, as pixels.

    at_least_s: where requests take seconds, so that there are many; 0: they don't.
    beside_external: only where a server takes part that somebody else started.
    also: an image that one request in `benchmarks.serving.load.ONE_IN` sends instead, or "".
    """

    name: str
    model: str
    kind: str
    image: str
    connections: int
    at_least_s: float = 0.0
    pixel_images: int = 1
    beside_external: bool = False
    also: str = ""


SCENARIOS = (
    Scenario(f"64 connections, {SMALL}", "null", "closed", SMALL, 64),
    Scenario(f"64 connections, {USUAL}", "null", "closed", USUAL, 64),
    Scenario(f"16 connections, {LARGE}", "null", "closed", LARGE, 16, 20.0),
    Scenario(f"gRPC, 64 calls, {USUAL}", "null", "grpc", USUAL, 64),
    Scenario(f"constant rate, {USUAL}", "null", "rate", USUAL, 0),
    Scenario(f"1 connection, {USUAL}", "real", "closed", USUAL, 1, 10.0, also=OTHER),
    Scenario(f"16 connections, {USUAL}", "real", "closed", USUAL, 16, 40.0, also=OTHER),
    Scenario(f"v2 JSON, 4 connections, {_PIXEL_IMAGES} x pixels", "null", v2.JSON, USUAL, 4,
             pixel_images=_PIXEL_IMAGES),
    Scenario(f"v2 binary, 4 connections, {_PIXEL_IMAGES} x pixels", "null", v2.BINARY, USUAL, 4,
             pixel_images=_PIXEL_IMAGES),
    Scenario("v2 binary, 16 connections, 1 x pixels", "real", v2.BINARY, USUAL, 16, 40.0,
             beside_external=True),
)  # fmt: skip
REFERENCE, REAL = SCENARIOS[1], SCENARIOS[6]
