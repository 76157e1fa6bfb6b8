from __future__ import annotations

import pytest
from pydantic import ValidationError

from models.imaging.preprocessing import Preprocessing, default_resize_size


@pytest.mark.parametrize(("size", "resized"), [(224, 256), (32, 37), (64, 73), (448, 512)])
def test_default_resize_keeps_the_pretrained_ratio(size: int, resized: int) -> None:
    assert default_resize_size(size) == resized


def test_crop_must_fit() -> None:
    with pytest.raises(ValidationError, match="smaller than image_size 64"):
        Preprocessing(image_size=64, resize_size=63)
