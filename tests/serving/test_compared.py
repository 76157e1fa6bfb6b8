from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from models import bundle, store
from serving import compared
from serving.metrics import Metrics
from serving.runtime import check_start, load_model, session_options
from serving.settings import Settings
from tests.helpers import free_port


@pytest.fixture
def settings(tiny_bundle: Path, store_home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("_VGG19_COMPARED", "[]")  # and put back afterwards
    store.promote(store.register(tiny_bundle))
    return Settings(grpc_port=free_port(), device="cpu")


async def test_a_worker_reads_no_graph_that_its_parent_has_compared(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = bundle.sha256

    def spy(path: Path) -> str:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(bundle, "sha256", spy)

    metrics = Metrics(CollectorRegistry())

    async def load() -> list[str]:
        read.clear()
        options = session_options(settings, worker_index=1)
        model = load_model(settings, options, metrics, store.resolve())
        await model.batcher.close(1)
        return read

    assert (await load()).count("model.onnx") == 1  # a worker that was told nothing
    read.clear()
    check_start(settings)
    assert read.count("model.onnx") == 1
    assert "model.onnx" not in await load()
    assert "spec.json" in read


def test_marks_reach_a_process_by_its_environment(settings: Settings) -> None:
    assert compared.by_parent() == []
    compared.tell_workers(["a", "b"])
    assert compared.by_parent() == ["a", "b"]
    del os.environ["_VGG19_COMPARED"]
    assert compared.by_parent() == []
