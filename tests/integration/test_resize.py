"""One rule for the shape of images, from training to the answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from models.bundle.bundle import Bundle
from models.imaging.image import load_image
from models.imaging.preprocessing import Preprocessing, Resize, default_resize_size
from serving.core.batcher import Batcher
from serving.core.dataplane import DataPlane
from serving.core.decode_budget import DecodeBudget
from serving.core.pool import DesiredVersion, ModelPool
from serving.core.requests import InferRequest
from serving.core.served_model import ServedModel
from serving.core.statistics import ModelStatistics
from serving.engine.options import SessionOptions
from serving.engine.session import Session
from serving.offline.files import classify_files
from tests.serving.conftest import LIMITS
from training.export.bundle import export_run
from training.loop.accelerator import make_accelerator
from training.loop.checkpoint import load_checkpoint
from training.loop.config_file import load_config, read_config
from training.loop.context import TrainContext, load_data
from training.loop.image_batches import ImageBatches
from training.loop.recipe import fine_tune
from training.loop.run import Run
from training.reporter import SilentReporter

RULES: list[Resize] = ["crop", "squash", "pad"]


def write_elongated_images(root: Path) -> Path:
    """Of two classes, eight each, wide and high: noise that is brighter at one end."""
    for number in range(16):
        rng = np.random.default_rng(number)
        size = (23, 71, 3) if number % 4 < 2 else (71, 23, 3)
        pixels = rng.integers(0, 120, size, np.uint8)
        pixels[:12, :12, :] += 100
        pixels[:, :, 2 * (number % 2)] += 30
        folder = root / ("blue" if number % 2 else "red")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return root


def train(path: Path, resize: Resize) -> Run:
    values = {
        "data": write_elongated_images(path / "data"), "output": path / "run", "weights": "none",
        "strategy": "full", "image_size": 32, "epochs": 1, "resize": resize, "split_by": "exact",
        "test_fraction": 0.3, "cache_dir": path / "cache",
    }  # fmt: skip
    return fine_tune(load_config(None, values), SilentReporter())


def evaluated(run: Run) -> tuple[list[Path], NDArray[np.float32]]:
    """The held-out files and their probabilities, as `vgg19 evaluate` finds them."""
    config = read_config(run.config)
    model, _ = load_checkpoint(run.best)
    reporter = SilentReporter()
    context = TrainContext(
        config, load_data(config, reporter), make_accelerator("cpu", "no"), reporter
    )
    logits, _ = context.predict(ImageBatches(context), model, context.data.held_out)
    temperature = run.read_json(run.metrics)["calibration"]["temperature"]
    files = [sample.path for sample in context.data.split(context.data.held_out)]
    return files, (logits / temperature).softmax(dim=1).numpy()


async def served(bundle: Bundle, session: Session, files: list[Path]) -> NDArray[np.float32]:
    """The probabilities of the service's data plane, for the files' bytes."""
    statistics = ModelStatistics()
    batcher = Batcher(
        session.judge, max_batch_size=4, max_queue=16, on_batch=statistics.count_batch
    )
    model = ServedModel(
        name="vgg19", version="v1", spec=bundle.spec, metrics=bundle.metrics(), provider="",
        batcher=batcher, statistics=statistics, acceptance=bundle.acceptance(),
        has_distance=session.has_distance, explainer=None,
    )  # fmt: skip
    pool = ModelPool(lambda _: model, grace_s=5)
    await pool.follow(DesiredVersion("v1"))
    decoders = DecodeBudget(2)
    answer = await DataPlane(pool, decoders, LIMITS).infer(
        InferRequest([file.read_bytes() for file in files])
    )
    await pool.close()
    decoders.close()
    return answer.probabilities


@pytest.mark.parametrize(
    "resize",
    [
        pytest.param("crop", marks=pytest.mark.exhaustive),
        pytest.param("squash", marks=pytest.mark.exhaustive),
        "pad",
    ],
)
@pytest.mark.usefixtures("thin_network")
def test_service_and_predict_answer_as_evaluate_does(tmp_path: Path, resize: Resize) -> None:
    torch.manual_seed(0)
    run = train(tmp_path, resize)
    files, expected = evaluated(run)
    bundle, _ = export_run(run)
    assert bundle.spec.preprocessing.resize == resize
    assert read_config(run.config).resize == resize
    assert f"32 px, resize {resize}; measured" in run.report.read_text()
    session = Session(bundle, SessionOptions([("CPUExecutionProvider", {})], None, 1, 4))

    over_the_data_plane = asyncio.run(served(bundle, session, files))
    rows = classify_files(
        [str(file) for file in files], session.judge, bundle.spec, bundle.acceptance(),
        top_k=2, batch_size=4, threads=2,
    )  # fmt: skip
    offline = {row.file: {p.label: p.probability for p in row.predictions} for row in rows}

    for other in RULES:  # so that the wrong rule would be seen
        short = default_resize_size(32) if other == "crop" else 32
        rule = Preprocessing(image_size=32, resize=other, resize_size=short)
        pixels = [load_image(file, rule) for file in files]
        answers = np.stack([output.probabilities for output in session.judge(pixels)])
        assert (np.abs(answers - expected).max() > 1e-4) == (other != resize)
    np.testing.assert_allclose(over_the_data_plane, expected, atol=1e-5)
    for file, row in zip(files, expected, strict=True):
        found = [offline[str(file)][label] for label in bundle.spec.labels]
        np.testing.assert_allclose(found, row, atol=1e-5)
