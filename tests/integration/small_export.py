"""The small network, exported with variants as `vgg19 export` does it."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.small_vgg import pixels, write_small_bundle
from training.export import variants
from training.export.images import Images
from training.export.variants import VariantJob
from training.loop.run import Run
from training.reporter import SilentReporter


def export_small(place: Path, wanted: str, others: int) -> Path:
    """A bundle without its manifest.

    Args:
        wanted: variant. others: images that an int8 margin is found on.
    """
    spec, golden = write_small_bundle(place / "bundle")
    images = Images(pixels(8, 100), pixels(30, 200), others=lambda: pixels(others, 400))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "read_images", lambda run, spec, reporter: images)
        job = VariantJob.of(Run(place / "run"), [wanted], SilentReporter())
        job(place / "bundle", spec, golden)
    return place / "bundle"
