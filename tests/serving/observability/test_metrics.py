from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from serving.core.dataplane import DataPlane
from serving.observability.metrics import Metrics
from tests.serving.conftest import StubModel, served

INFO = "vgg19_model_info"


async def test_the_current_model_is_the_one_with_1(classifier: DataPlane, model: StubModel) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)

    def info(version: str) -> float | None:
        labels = {"version": version, "device": "cpu", "provider": "CPUExecutionProvider"}
        return registry.get_sample_value(INFO, labels)

    metrics.count_reload(served("v1", model))
    assert (info("v1"), registry.get_sample_value("vgg19_stale")) == (1, 0)
    metrics.count_reload(None)
    assert (info("v1"), registry.get_sample_value("vgg19_stale")) == (1, 1)
    metrics.count_reload(served("v2", model))
    assert (info("v1"), info("v2")) == (0, 1)
    assert registry.get_sample_value("vgg19_stale") == 0
    reloads = {
        outcome: registry.get_sample_value("vgg19_reloads_total", {"outcome": outcome})
        for outcome in ("succeeded", "failed")
    }
    assert reloads == {"succeeded": 2, "failed": 1}


def test_batches_and_the_queue() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for size in (1, 3, 32):
        metrics.count_batch(size)
    metrics.show_queue("v1", 7)
    assert registry.get_sample_value("vgg19_batch_images_sum") == 36
    assert registry.get_sample_value("vgg19_batch_images_bucket", {"le": "4.0"}) == 2
    assert registry.get_sample_value("vgg19_queue_images", {"version": "v1"}) == 7


def test_a_canary_by_its_version_and_production_by_its_own() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.show_canary("v2", 25)
    metrics.count_canary("v2", "failed", hits=3, count=10)
    metrics.count_canary("v2", "failed", hits=0, count=5)
    metrics.count_canary("v1", "failed", hits=1, count=20)
    assert registry.get_sample_value("vgg19_canary_percent", {"version": "v2"}) == 25
    counted = {
        (version, hit): registry.get_sample_value(
            "vgg19_canary_outcomes_total", {"version": version, "kind": "failed", "hit": hit}
        )
        for version in ("v1", "v2")
        for hit in ("true", "false")
    }
    assert counted == {
        ("v1", "true"): 1, ("v1", "false"): 19, ("v2", "true"): 3, ("v2", "false"): 12,
    }  # fmt: skip
    metrics.show_canary("v2", 0)
    assert registry.get_sample_value("vgg19_canary_percent", {"version": "v2"}) == 0


def test_the_page_about_monitoring_lists_every_metric() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    names = {metric.name for metric in registry.collect()}
    page = (Path(__file__).parents[3] / "docs" / "operate" / "monitor.md").read_text()
    listed = set(re.findall(r"^\| `(vgg19_\w+?)(?:_total)?`", page, re.MULTILINE))
    assert listed == names
