"""The labels of captured images as a table."""

from __future__ import annotations

import csv
import io

from review.workbench import Labelled


def captured_table(labelled: Labelled) -> bytes:
    """CSV: stems and labels of captured images, as `vgg19 label URL --from` reads it."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["stem", "label"])
    writer.writerows((item.stem, label) for item, label in labelled if item.stem is not None)
    return buffer.getvalue().encode()
