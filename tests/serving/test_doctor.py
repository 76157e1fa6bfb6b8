from __future__ import annotations

from pathlib import Path

import pytest

from models.registry import store
from serving.doctor import diagnose, workers_advice
from serving.engine.providers import has_cuda_driver


@pytest.fixture
def production(store_home: Path, tiny_bundle: Path) -> str:
    return store.promote(store.register(tiny_bundle))


def lines(said: list[str]) -> dict[str, str]:
    return {line.split()[0]: line for line in said}


def test_a_machine_that_can_serve(production: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG19_DEVICE", "cpu")
    monkeypatch.setenv("VGG19_MAX_BATCH_SIZE", "4")
    said: list[str] = []
    assert diagnose(said.append)
    told = lines(said)
    assert "CPUExecutionProvider: VGG19_DEVICE is cpu" in told["would"]
    assert f"{production} loaded, golden samples equal" in told["model"]
    assert [line.split(":")[0] for line in said if line.startswith("probe")] == [
        "probe       a batch of 1",
        "probe       a batch of 4",
    ]
    assert "onnxruntime" in told["versions"]


def test_what_keeps_the_service_from_starting(
    store_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    assert not diagnose(said.append)
    assert "no production model in" in lines(said)["problem"]
    if not has_cuda_driver():
        monkeypatch.setenv("VGG19_DEVICE", "cuda")
        assert not diagnose(said.append)
        assert "VGG19_DEVICE is cuda, but" in said[-1]
    monkeypatch.setenv("VGG19_DEVICE", "gpu")
    assert not diagnose(said.append)
    assert said[-1].startswith("problem     VGG19_DEVICE is 'gpu'")


@pytest.mark.parametrize(
    ("cores", "workers", "better"),
    [(2, 1, None), (7, 1, None), (8, 1, 2), (16, 1, 4), (16, 3, 4), (16, 4, None), (16, 8, None)],
)
def test_one_worker_cannot_keep_a_large_gpu_busy(
    cores: int, workers: int, better: int | None
) -> None:
    sentence = workers_advice(cores, workers)
    assert sentence is None if better is None else f"VGG19_WORKERS={better} " in str(sentence)
