"""The networks that there are, by the names that configurations and bundles have them under."""

from __future__ import annotations

from models.errors import UserError
from models.network.architecture import Architecture
from models.network.vgg19 import VGG19

ARCHITECTURES = {network.name: network for network in (VGG19,)}


class ArchitectureError(UserError):
    """There is no such network."""


def architecture(name: str) -> Architecture:
    """Raises ArchitectureError unless there is one of that name."""
    if name not in ARCHITECTURES:
        raise ArchitectureError(
            f"there is no network '{name}'; choose one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]
