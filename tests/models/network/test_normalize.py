from __future__ import annotations

import torch
from torchvision.models import VGG19_Weights

from models.imaging.preprocessing import Preprocessing
from models.network.normalize import Normalize
from testing.images import coloured_pixels


def test_normalize_is_torchvisions_to_the_last_bit() -> None:
    pixels = torch.from_numpy(coloured_pixels(1))[None]
    expected = VGG19_Weights.IMAGENET1K_V1.transforms(crop_size=32, resize_size=32)(
        pixels.permute(0, 3, 1, 2)
    )
    actual = Normalize(Preprocessing(image_size=32, resize_size=32))(pixels)
    assert actual.shape == (1, 3, 32, 32)
    assert torch.equal(actual, expected)
