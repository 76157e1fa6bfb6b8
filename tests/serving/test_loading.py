from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest

from models.registry import store
from serving.core.supervisor import Supervisor
from serving.engine.right_of_way import Traffic
from serving.loading import load_model, session_options
from serving.settings import Settings


class _Metrics:
    def count_batch(self, size: int) -> None: ...
    def show_queue(self, version: str, depth: int) -> None: ...


@pytest.mark.usefixtures("store_home")
async def test_the_requests_of_a_loaded_model_stop_what_loads_the_next(tiny_bundle: Path) -> None:
    version = store.register(tiny_bundle).rpartition(":")[2]
    settings, traffic = Settings(device="cpu"), Traffic()
    options = session_options(settings, worker_index=1)
    model = load_model(settings, options, _Metrics(), Supervisor(), traffic, version)
    loading = ort.RunOptions()
    assert traffic.take_gap(loading, 0.0)  # what its own load took was given back
    model.acquire()
    assert loading.terminate
    traffic.end_gap()
    assert not traffic.take_gap(ort.RunOptions(), 0.0)
    model.release()
    assert traffic.take_gap(ort.RunOptions(), 0.0)
    await model.close(0.0)
