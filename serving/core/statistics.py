"""What one model has answered so far, and how long each stage took. Counts of one event loop."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Total:
    """How often something happened, and the seconds it took in sum."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


@dataclass(frozen=True)
class Timings:
    """The stages of one request, in seconds: decoding, waiting for a batch, inference, and its
    heat maps (None: it asked for none)."""

    decode_s: float
    queue_s: float
    inference_s: float
    explain_s: float | None = None

    def stages(self) -> dict[str, float]:
        """Seconds of each, in order: decode, queue, inference, explain if there was that."""
        stages = {"decode": self.decode_s, "queue": self.queue_s, "inference": self.inference_s}
        return stages if self.explain_s is None else stages | {"explain": self.explain_s}

    def stages_and_old_names(self) -> dict[str, float]:
        """For answers, metrics and the log, which have called inference `run` so far: they have
        both. Deprecated: the release after 0.1 has `stages` alone."""
        return self.stages() | {"run": self.inference_s}


@dataclass
class ModelStatistics:
    """Of requests, images and batches. Triton's statistics extension has the same parts."""

    succeeded: Total = field(default_factory=Total)
    failed: Total = field(default_factory=Total)
    decode: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    inference: Total = field(default_factory=Total)
    images: int = 0
    batches: defaultdict[int, Total] = field(default_factory=lambda: defaultdict(Total))
    last_answer_ms: int = 0  # since 1970

    @property
    def batch_count(self) -> int:
        return sum(total.count for total in self.batches.values())

    def count_batch(self, size: int, seconds: float) -> None:
        self.batches[size].add(seconds)
        self.images += size

    def count_answer(self, timings: Timings, seconds: float) -> None:
        self.succeeded.add(seconds)
        self.decode.add(timings.decode_s)
        self.queue.add(timings.queue_s)
        self.inference.add(timings.inference_s)
        self.last_answer_ms = time.time_ns() // 1_000_000
