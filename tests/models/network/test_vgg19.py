from __future__ import annotations

import torch

from models.network.vgg19 import VGG19

NAMES = VGG19.layer_names


def test_layers_are_the_nineteen_from_input_to_head() -> None:
    assert len(NAMES) == 19
    assert (NAMES[0], NAMES[15], NAMES[-1]) == ("features.0", "features.34", VGG19.head)
    assert [name for block in reversed(VGG19.blocks) for name in block] == list(NAMES[:16])
    assert VGG19.fully_connected == NAMES[16:]


def test_what_an_image_becomes_on_the_way() -> None:
    empty = VGG19.empty(num_classes=7)
    shapes = {
        name: VGG19.shape_before(VGG19.index(empty, name), 224)
        for name in ("features.0", VGG19.pooling, "flatten", *VGG19.fully_connected)
    }
    assert shapes == {
        "features.0": (3, 224, 224),
        "avgpool": (512, 7, 7),
        "flatten": (512, 7, 7),
        "classifier.0": (25088,),
        "classifier.3": (4096,),
        "classifier.6": (4096,),
    }
    assert [VGG19.heat_map_side(size) for size in (32, 224, 250)] == [1, 7, 7]


def test_an_empty_network_takes_no_random_numbers_and_no_memory() -> None:
    """A resumed run draws what the run that it continues would have drawn."""
    before = torch.get_rng_state()
    assert all(parameter.is_meta for parameter in VGG19.empty(num_classes=2).parameters())
    assert torch.equal(torch.get_rng_state(), before)
