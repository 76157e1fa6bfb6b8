"""`reference.json` of a bundle: histograms of the validation images, which production is compared
with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, model_validator

from models.bundle.bundle import REFERENCE_FILE, Bundle
from models.bundle.json_file import JsonFile
from models.errors import BundleError
from models.monitoring.features import NAMES, Layout, features_of

# The last feature, which references of before 2026-11-28 don't have.
_LATEST = features_of(())[-1]


class Reference(JsonFile):
    """Counts of images by feature and bin.

    format_version: raised when the bins of `models.monitoring.features` change.
    images: that were looked at.
    counts: of each feature, one number a bin; all 0 where the model doesn't have it, or its bundle
    is from before the feature: it isn't tested then.
    """

    format_version: Literal[1] = 1
    images: int = Field(ge=1)
    counts: dict[str, tuple[NonNegativeInt, ...]]

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_releases(cls, values: Any) -> Any:
        counts = values.get("counts") if isinstance(values, dict) else None
        if not isinstance(counts, dict) or tuple(counts) != NAMES[:-1]:
            return values
        return {**values, "counts": {**counts, _LATEST.name: (0,) * _LATEST.bins}}

    @model_validator(mode="after")
    def _all_features(self) -> Self:
        if tuple(self.counts) != NAMES:
            raise ValueError(f"its features are to be {', '.join(NAMES)}")
        return self

    @classmethod
    def of_rows(cls, rows: NDArray[np.floating], labels: Sequence[str]) -> Self:
        """Of float[N,F], see `models.monitoring.features.measured`."""
        layout = Layout.of(labels)
        counts = layout.count(rows)
        named = zip(NAMES, layout.slices, strict=True)
        return cls(
            images=len(rows), counts={name: tuple(counts[part].tolist()) for name, part in named}
        )

    def histogram(self) -> NDArray[np.int64]:
        """int64[L], as `Layout` has them."""
        return np.concatenate([np.array(counts, np.int64) for counts in self.counts.values()])


def read_reference(bundle: Bundle) -> Reference | None:
    """The bundle's reference; None: it is from before there was any.

    Raises:
        BundleError: it is damaged, or of another version's bins.
    """
    if REFERENCE_FILE not in bundle.manifest.files:
        return None
    path = bundle.path / REFERENCE_FILE
    reference = Reference.read(path)
    for feature in features_of(bundle.spec.labels):
        found = len(reference.counts[feature.name])
        if found != feature.bins:
            raise BundleError(
                f"{path} has {found} bins of {feature.name}, it must have {feature.bins}; export "
                "the run again"
            )
    return reference
