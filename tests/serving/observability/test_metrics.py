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


def test_the_page_about_monitoring_lists_every_metric() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    names = {metric.name for metric in registry.collect()}
    page = (Path(__file__).parents[3] / "docs" / "operate" / "monitor.md").read_text()
    listed = set(re.findall(r"^\| `(vgg19_\w+?)(?:_total)?`", page, re.MULTILINE))
    assert listed == names
