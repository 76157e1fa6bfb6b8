"""`vgg19 redeploy` with a learner that takes milliseconds in VGG-19's place: nearest centroid.

    python -m tests.redeploy_stub redeploy --config FILE

or `run`, from a server that has imported everything already.

It learns from the pixels of the training images: more images make it better, wrong labels worse.
STUB_KILL=before:STEP or after:STEP kills the process with SIGKILL before a step of the job, or
after its work but before that is recorded.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from cli.main import main
from models import bentoml_adapter
from models.bundle.bundle import (
    CARD_FILE,
    GOLDEN_FILE,
    METRICS_FILE,
    MODEL_FILE,
    SEEN_FILE,
    SPEC_FILE,
    Bundle,
    open_bundle,
)
from models.bundle.golden import GoldenSamples
from models.bundle.manifest import Provenance
from models.bundle.spec import ModelSpec
from models.bundle.writer import write_manifest
from models.export.onnx_export import Parity
from models.files import staged_directory
from models.imaging.image import load_image
from testing.waiting import HANG_S
from training.data.checks import Sample
from training.data.image_data import ImageData
from training.evaluate.metrics import classification_metrics
from training.export import bundle
from training.loop.config import TrainConfig
from training.loop.config_file import write_config
from training.loop.context import load_data
from training.loop.run import Run, record_provenance, write_json
from training.redeploy import challenger, job_state
from training.reporter import Reporter

SHARPNESS = 2e-6  # of the softmax: pixels are 0..255, distances go in their squares


def fine_tune(config: TrainConfig, reporter: Reporter, *, resume: bool = False) -> Run:
    images = load_data(config, reporter)
    run = Run(config.output)
    run.path.mkdir(parents=True)
    centroids = np.stack(
        [
            np.mean([_pixels(s, config) for s in images.split("train") if s.label == label], axis=0)
            for label in images.labels
        ]
    )
    np.save(run.path / "centroids.npy", centroids)
    test = images.split("test")
    logits = _logits(np.stack([_pixels(sample, config) for sample in test]), centroids)
    targets = torch.tensor([images.labels.index(sample.label) for sample in test])
    metrics = classification_metrics(torch.from_numpy(logits), targets, images.labels)
    _write(run, config, images, metrics)
    return run


def _write(run: Run, config: TrainConfig, images: ImageData, metrics: dict[str, Any]) -> None:
    write_config(config, run.config)
    write_json(run.data, images.describe())
    provenance = record_provenance(config, images.fingerprint())
    write_json(run.provenance, provenance.model_dump(mode="json"))
    held_out = {"split": "test", **metrics}
    write_json(run.metrics, {"best_epoch": 1, "history": [{"epoch": 1}], "held_out": held_out})
    run.report.write_text("a report")


def export_run(run: Run, reporter: Reporter) -> tuple[Bundle, Parity]:
    config = TrainConfig.model_validate(json.loads(run.provenance.read_text())["training_config"])
    data = run.read_json(run.data)
    spec = ModelSpec(labels=tuple(data["labels"]), preprocessing=config.preprocessing())
    centroids = np.load(run.path / "centroids.npy")
    files = [file for file in data["files"] if file["split"] == "test"][:8]
    images = np.stack([load_image(run.path.parent / f["path"], spec.preprocessing) for f in files])
    flat = images.reshape(len(images), -1).astype(np.float64)
    golden = torch.from_numpy(_logits(flat, centroids)).softmax(dim=1).numpy().astype(np.float32)
    parity = Parity((1,), len(images), max_probability_difference=1e-7, tolerance=1e-4)
    with staged_directory(run.bundle) as staging:
        onnx.save_model(_graph(spec, centroids), staging / MODEL_FILE)
        spec.write(staging / SPEC_FILE)
        GoldenSamples(images=images, probabilities=golden).write(staging / GOLDEN_FILE)
        metrics = run.read_json(run.metrics) | {"onnx_parity": asdict(parity)}
        (staging / METRICS_FILE).write_text(json.dumps(metrics))
        (staging / CARD_FILE).write_text("# centroids\n")
        bundle._seen(data).write(staging / SEEN_FILE)
        write_manifest(staging, Provenance.model_validate(run.read_json(run.provenance)))
    return open_bundle(run.bundle), parity


def _pixels(sample: Sample, config: TrainConfig) -> NDArray[np.float64]:
    return load_image(sample.path, config.preprocessing()).ravel().astype(np.float64)


def _logits(pixels: NDArray[np.float64], centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minus the squared distance from each centroid, but for what all classes share."""
    result: NDArray[np.float64] = SHARPNESS * (
        2 * pixels @ centroids.T - (centroids**2).sum(axis=1)
    )
    return result


def _graph(spec: ModelSpec, centroids: NDArray[np.float64]) -> onnx.ModelProto:
    size = spec.preprocessing.image_size
    nodes = [
        helper.make_node("Cast", [spec.input_name], ["float"], to=TensorProto.DOUBLE),
        helper.make_node("Flatten", ["float"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["products"]),
        helper.make_node("Add", ["products", "offsets"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["double"], axis=1),
        helper.make_node("Cast", ["double"], [spec.output_name], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "centroids",
        [helper.make_tensor_value_info(spec.input_name, TensorProto.UINT8, ["N", size, size, 3])],
        [helper.make_tensor_value_info(spec.output_name, TensorProto.FLOAT, ["N", len(centroids)])],
        [
            from_array(2 * SHARPNESS * centroids.T, "weights"),
            from_array(-SHARPNESS * (centroids**2).sum(axis=1), "offsets"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def install() -> None:
    """Put the learner into the job's place."""
    vars(challenger).update(train=fine_tune, export_run=export_run)
    moment, _, step = os.environ.get("STUB_KILL", "").partition(":")
    original = job_state.JobState.step

    def killed(
        self: job_state.JobState, name: str, do: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        def do_and_die() -> dict[str, Any]:
            if moment == "after":
                do()
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        return original(self, name, do_and_die if name == step else do)

    job_state.JobState.step = killed  # type: ignore[method-assign]


@dataclass(frozen=True)
class Result:
    """What became of a process."""

    returncode: int
    stdout: str
    stderr: str


def run(config: Path, home: Path, output: Path, kill: str = "") -> Result:
    """`vgg19 redeploy --config CONFIG` in a process of its own.

    Args:
        home: BentoML's. output: a folder for what it prints. kill: as STUB_KILL.
    """
    output.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_command, args=(config, home, output, kill))
    process.start()
    process.join(timeout=HANG_S)
    assert process.exitcode is not None
    texts = [(output / name).read_text() for name in ("stdout", "stderr")]
    return Result(process.exitcode, *texts)


def _command(config: Path, home: Path, output: Path, kill: str) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
    os.environ |= {"BENTOML_HOME": str(home), "STUB_KILL": kill, "COLUMNS": "160"}
    bentoml_adapter.choose_store_directory(home / "models")
    sys.argv = ["vgg19", "redeploy", "--config", str(config)]
    install()
    main()


if __name__ == "__main__":
    install()
    main()
