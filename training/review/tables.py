"""The labels of a review as a table that `vgg19 train`, `probe` and `redeploy` read."""

from __future__ import annotations

import csv
import io

from review.workbench import Labelled
from training.review.pool import NetworkPool


def training_table(pool: NetworkPool, labelled: Labelled) -> bytes:
    """CSV: absolute paths, labels, and splits where the data name any.

    What judges a model keeps the split and the label that it had; what was reviewed is trained on.
    Images that show none of the classes, and those about which people differ, are left out.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["path", "label", "split"])
    for sample in pool.data.samples if pool.data is not None else ():
        if sample.split != "train":
            writer.writerow([sample.path.absolute(), sample.label, sample.split])
    split = "train" if pool.data is not None else ""
    for item, label in labelled:
        writer.writerow([item.path.absolute(), label, split])
    # Names of files may hold any bytes.
    return buffer.getvalue().encode("utf-8", "surrogateescape")
