"""How long something takes on a GPU, and how busy it keeps the card."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

_WARM_UP, _FEWEST = 3, 5
_SAMPLE_S = 0.1
_NAME = 110  # characters of a kernel's, without most of its template's arguments


def median_seconds(run: Callable[[], object], seconds: float) -> float:
    """Of one call, which must have ended on the card when it returns; called for about `seconds`,
    after some that warm up."""
    for _ in range(_WARM_UP):
        run()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < _FEWEST or time.perf_counter() < until:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def synchronised(run: Callable[[], object]) -> Callable[[], object]:
    """`run`, and then wait for the card."""

    def both() -> object:
        result = run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return result

    return both


@dataclass
class Kernels:
    """What ran on the card meanwhile. wall_s: of the block. busy_s: in which any kernel or copy
    ran. names: seconds of each kernel."""

    wall_s: float = 0.0
    busy_s: float = 0.0
    names: Counter[str] = field(default_factory=Counter)

    @property
    def busy(self) -> float:
        """0..1."""
        return self.busy_s / self.wall_s if self.wall_s else 0.0

    def longest(self, count: int) -> dict[str, float]:
        """Share of the busy time of the kernels that took most of it."""
        total = sum(self.names.values()) or 1.0
        return {name: round(seconds / total, 4) for name, seconds in self.names.most_common(count)}


@contextmanager
def traced() -> Iterator[Kernels]:
    """Trace the kernels of this process, ONNX Runtime's as well, by CUPTI. Without a GPU there are
    none."""
    kernels = Kernels()
    if not torch.cuda.is_available():
        yield kernels
        return
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        torch.cuda.synchronize()
        started = time.perf_counter()
        yield kernels
        torch.cuda.synchronize()
        kernels.wall_s = time.perf_counter() - started
    spans = []
    for event in profiler.profiler.kineto_results.events():
        if "CUDA" in str(event.device_type()):
            spans.append((event.start_ns(), event.start_ns() + event.duration_ns()))
            kernels.names[event.name()[:_NAME]] += event.duration_ns() / 1e9
    kernels.busy_s = _union(spans) / 1e9


def _union(spans: Sequence[tuple[int, int]]) -> float:
    """The length of what intervals cover together."""
    covered, end = 0, 0
    for start, stop in sorted(spans):
        covered += max(0, stop - max(start, end))
        end = max(end, stop)
    return covered


class CardWatch:
    """Samples the first card's utilisation (0..1, as the driver tells it) and memory, in a thread.

    `utilisation`: the mean. `memory_mb`: the most that was taken.
    """

    def __init__(self) -> None:
        self.utilisation = self.memory_mb = 0.0
        self._samples: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> CardWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.utilisation = statistics.fmean(self._samples) if self._samples else 0.0

    def _watch(self) -> None:
        card = open_card()
        if card is None:
            return
        nvml, handle = card
        while not self._done.wait(_SAMPLE_S):
            self._samples.append(nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
            used = nvml.nvmlDeviceGetMemoryInfo(handle).used / 1e6
            self.memory_mb = max(self.memory_mb, used)


def memory_mb() -> float:
    """What is taken of the first card's memory, by all processes; 0 without a card."""
    card = open_card()
    return float(card[0].nvmlDeviceGetMemoryInfo(card[1]).used / 1e6) if card else 0.0


def open_card() -> tuple[Any, Any] | None:
    """NVIDIA's management library and the first card's handle; None where there is none."""
    try:
        nvml = import_module("pynvml")  # which is here only where something needs a GPU
        nvml.nvmlInit()
        return nvml, nvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # no library, no driver, no card: each has an exception of its own
        return None
