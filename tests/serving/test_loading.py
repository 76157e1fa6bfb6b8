from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest

from models.bundle.bundle import REFERENCE_FILE
from models.bundle.writer import write_manifest
from models.registry import store
from serving.core.supervisor import Supervisor
from serving.engine.right_of_way import Traffic
from serving.loading import load_model, session_options
from serving.settings import Settings
from testing.bundles import provenance


class _Metrics:
    def count_batch(self, size: int) -> None: ...
    def count_reruns(self, count: int) -> None: ...
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
    assert traffic.take_gap(ort.RunOptions(), 1.0)
    await model.close(0.0)


@pytest.mark.usefixtures("store_home")
async def test_a_reference_that_can_not_be_read_keeps_no_model_from_being_served(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tiny_bundle / REFERENCE_FILE).write_text('{"format_version": 2}')
    write_manifest(tiny_bundle, provenance())
    version = store.register(tiny_bundle).rpartition(":")[2]
    settings = Settings(device="cpu")
    options = session_options(settings, worker_index=1)
    model = load_model(settings, options, _Metrics(), Supervisor(), Traffic(), version)
    assert model.reference is None
    assert "drift isn't watched: " in caplog.text
    await model.close(0.0)
