"""The labels of a review as tables that `vgg19 train`, `probe`, `redeploy` and `label` read."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from training.review.pool import NetworkPool


def training_table(pool: NetworkPool, labelled: Mapping[int, str]) -> bytes:
    """CSV: absolute paths, labels, and splits where the data name any.

    What judges a model keeps the split and the label that it had; what was reviewed is trained on.
    Images that show none of the classes, and those about which people differ, are left out.

    Args:
        labelled: row of the pool -> label.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["path", "label", "split"])
    for sample in pool.data.samples if pool.data is not None else ():
        if sample.split != "train":
            writer.writerow([sample.path.absolute(), sample.label, sample.split])
    split = "train" if pool.data is not None else ""
    for row, label in sorted(labelled.items()):
        writer.writerow([pool.items[row].path.absolute(), label, split])
    # Names of files may hold any bytes.
    return buffer.getvalue().encode("utf-8", "surrogateescape")


def captured_table(pool: NetworkPool, labelled: Mapping[int, str]) -> bytes:
    """CSV: stems and labels of captured images, as `vgg19 label URL --from` reads it."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["stem", "label"])
    stems = ((pool.items[row].stem, label) for row, label in sorted(labelled.items()))
    writer.writerows((stem, label) for stem, label in stems if stem is not None)
    return buffer.getvalue().encode()
