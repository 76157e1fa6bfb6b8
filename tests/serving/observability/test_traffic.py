from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from serving.observability.metrics import Metrics
from serving.observability.traffic import Traffic, traffic

COUNT = """
from serving.observability.metrics import Metrics
metrics = Metrics()
for seconds in (0.003, 0.004, 0.3):
    metrics.count_request("http", "ok", seconds)
metrics.count_request("grpc", "rejected", 0.001)
"""


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)


@pytest.mark.usefixtures("one_process")
def test_requests_are_counted_by_outcome() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for outcome in ("ok", "ok", "rejected"):
        metrics.count_request("http", outcome, 0.002)
    metrics.count_request("grpc", "ok", 0.002)
    assert dict(traffic(registry).outcomes) == {"ok": 3, "rejected": 1}


def test_workers_are_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that have ended."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for _ in range(2):
        subprocess.run([sys.executable, "-c", COUNT], check=True)
    found = traffic()
    assert dict(found.outcomes) == {"ok": 6, "rejected": 2}
    assert found.seconds[0.005] == 6
    assert found.seconds[float("inf")] == 8


def test_a_quantile_lies_straight_between_the_limits() -> None:
    found = Traffic(seconds={0.1: 50, 0.2: 90, 1.0: 100, float("inf"): 100})
    assert found.quantile_s(0.25) == pytest.approx(0.05)
    assert found.quantile_s(0.5) == pytest.approx(0.1)
    assert found.quantile_s(0.7) == pytest.approx(0.15)
    assert found.quantile_s(0.95) == pytest.approx(0.6)


def test_a_quantile_above_all_limits_is_the_last() -> None:
    assert Traffic(seconds={0.1: 1, float("inf"): 10}).quantile_s(0.9) == 0.1


def test_without_requests_there_is_no_quantile() -> None:
    assert Traffic().quantile_s(0.5) is None
    assert Traffic(seconds={0.1: 0, float("inf"): 0}).quantile_s(0.5) is None
