"""Captured images that have a label, for training."""

from __future__ import annotations

from models.captured import captured_images
from training.data.sources import ImageFile
from training.reporter import Reporter, SilentReporter


def labelled_images(url: str, reporter: Reporter | None = None) -> list[ImageFile]:
    """The labelled images of a location, as a data source.

    Raises:
        CaptureError: it can't be read.
    """
    reporter = reporter or SilentReporter()
    images = captured_images(url, reporter.warn)
    return [ImageFile(one.path, one.label) for one in images if one.label]
