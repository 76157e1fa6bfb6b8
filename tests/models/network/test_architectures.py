from __future__ import annotations

import pytest

from models.network.architectures import ARCHITECTURES, ArchitectureError, architecture
from models.network.vgg19 import VGG19


def test_by_name() -> None:
    assert architecture("vgg19") is VGG19
    assert all(network.name == name for name, network in ARCHITECTURES.items())


def test_another_name() -> None:
    with pytest.raises(ArchitectureError, match="no network 'vgg16'; choose one of vgg19"):
        architecture("vgg16")
