from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.bundle.golden import GoldenSamples
from models.errors import BundleError


def test_golden_samples_never_unpickle(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", images=np.array([{}], dtype=object))
    with pytest.raises(BundleError, match="no golden samples"):
        GoldenSamples.read(tmp_path / "golden.npz")
