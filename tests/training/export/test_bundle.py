from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from models.export.onnx_export import ExportError, Parity
from models.network.build import build
from models.network.vgg19 import VGG19
from testing.bundles import tiny_spec
from testing.images import coloured_pixels
from training.export.bundle import export_run
from training.loop.checkpoint import save_checkpoint
from training.loop.config_file import load_config
from training.loop.run import Run, RunError, record_provenance, write_held_out, write_json
from training.reporter import Advance, SilentReporter

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path, thin_network: None) -> Run:
    """A finished run, made by hand."""
    run = Run(tmp_path / "run")
    run.path.mkdir()
    torch.manual_seed(0)
    save_checkpoint(build(VGG19, "none", num_classes=3).state_dict(), tiny_spec(), run.best)
    images = np.stack([coloured_pixels(seed) for seed in range(4)])
    write_held_out(run.held_out, images, np.zeros(4, np.int64))
    scores = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 1}
    held_out = {"split": "test", "images": 3, "accuracy": 0.5, "loss": 1.0}
    held_out["per_class"] = dict.fromkeys(tiny_spec().labels, scores)
    metrics = {"best_epoch": 1, "held_out": held_out, "history": []}
    write_json(run.metrics, metrics | {"calibration": {"temperature": 1.0}})
    write_json(run.data, {"counts": {}, "files": []})
    provenance = record_provenance(load_config(None, {"data": "d", "output": "o"}), "f" * 64)
    write_json(run.provenance, provenance.model_dump(mode="json"))
    return run


def test_a_failed_proof_leaves_no_bundle(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.export.bundle.export", lambda module, spec, path: path.touch())

    def differ(*_: object) -> Parity:
        raise ExportError("differs by 1")

    monkeypatch.setattr("training.export.bundle.prove_parity", differ)
    before = set(run.path.rglob("*"))
    with pytest.raises(ExportError):
        export_run(run)
    assert set(run.path.rglob("*")) == before


class KeepsNotes(SilentReporter):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[int, str]] = []

    @contextmanager
    def progress(self, description: str, total: int, *, unit: str = "") -> Iterator[Advance]:
        assert (description, total, unit) == ("exporting", 4, "")
        yield lambda done, note: self.steps.append((done, note))


def test_each_step_is_told_when_it_begins(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.export.bundle.model_card", lambda *_: "what it is for")
    reporter = KeepsNotes()
    export_run(run, reporter=reporter)
    assert reporter.steps == [
        (0, "writing the graph"),
        (1, "comparing it with PyTorch"),
        (1, "writing the graph of heat maps"),
        (1, "comparing its heat maps"),
    ]


def test_a_run_that_was_interrupted_is_not_exported(run: Run) -> None:
    write_json(run.metrics, {"history": []})
    with pytest.raises(
        RunError, match=r"interrupted before its end; continue with 'vgg19 train --resume .*run'"
    ):
        export_run(run)


def test_damaged_held_out_images(run: Run) -> None:
    run.held_out.write_bytes(b"x")
    with pytest.raises(RunError, match=r"held_out\.npz is missing or damaged"):
        export_run(run)
