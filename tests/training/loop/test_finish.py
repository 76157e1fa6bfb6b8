from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.bundle.metrics import weaknesses
from testing.images import coloured_pixels, encode, write_image_folder
from tests.training.loop.conftest import config
from training.loop.recipe import fine_tune
from training.reporter import SilentReporter

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("image_size", "heat_maps"), [(32, 0), (64, 4)])
@pytest.mark.usefixtures("thin_network")
def test_mistakes_are_shown_as_pictures_with_escaped_names(
    tmp_path: Path, image_size: int, heat_maps: int
) -> None:
    data = tmp_path / "data"
    for split, first in (("train", 0), ("test", 4)):
        for label in ("a&b", "c"):
            (data / split / label).mkdir(parents=True)
            for seed in range(4):  # the same images under both labels: half must be wrong
                pixels = coloured_pixels(first + seed)
                (data / split / label / f"<{seed}>.png").write_bytes(encode(pixels))
    run = fine_tune(config(tmp_path, image_size=image_size), SilentReporter())
    page = run.report.read_text()
    assert page.count("<figure>") == 4
    assert page.count('alt="what supports ') == heat_maps  # at 32 px a map has one value
    assert ("(Grad-CAM)" in page) == bool(heat_maps)
    assert "&lt;0&gt;.png" in page
    assert "<0>.png" not in page
    assert "a&amp;b" in page


@pytest.mark.usefixtures("thin_network")
def test_a_model_that_is_of_no_use_is_said_to_be(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "data", {"blue": 24, "red": 6})
    reporter = SilentReporter()
    run = fine_tune(config(tmp_path, learning_rate=1e-12), reporter)
    before, after = reporter.warnings[:2], reporter.warnings[2:]
    assert before[0].startswith("weights is none and strategy head leaves 18 of 19 layers as they")
    assert "classes have fewer than 10 images" in before[1]
    assert after[0].startswith("it is no better than always answering 'blue'")
    assert after[1].startswith("it never answers '")
    page = run.report.read_text()
    assert page.count('<p class="warning">It ') == 2
    metrics = json.loads(run.metrics.read_text())["held_out"]
    assert weaknesses(metrics) == after
