from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from training.data.augment import BatchMixing, ImageAugmentation

PIXELS = torch.arange(32 * 32 * 3, dtype=torch.int64).remainder(251).to(torch.uint8).view(32, 32, 3)


def augmentation(kind: Any = "basic", **changes: Any) -> ImageAugmentation:
    options: dict[str, Any] = {
        "crop_scale": 0.5,
        "horizontal_flip": True,
        "random_erasing": 0.0,
        "seed": 0,
    }
    return ImageAugmentation(kind, 32, **(options | changes))


def test_none_is_none() -> None:
    assert torch.equal(augmentation("none")(PIXELS, 5), PIXELS)


@pytest.mark.parametrize("kind", ["basic", "trivial", "rand"])
def test_the_number_decides_and_the_run_goes_on_as_if_nothing_was_drawn(kind: Any) -> None:
    augment = augmentation(kind)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    looks = [augment(PIXELS, number) for number in range(8)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(look.shape == PIXELS.shape and look.dtype == torch.uint8 for look in looks)
    assert all(torch.equal(augment(PIXELS, number), looks[number]) for number in range(8))
    assert len({look.numpy().tobytes() for look in looks}) == 8
    assert not torch.equal(augmentation(kind, seed=1)(PIXELS, 0), looks[0])


def test_flip_alone() -> None:
    looks = [augmentation(crop_scale=1.0)(PIXELS, number) for number in range(20)]
    mirrored = [
        (look.float() - PIXELS.flip(1).float()).abs().mean()
        < (look.float() - PIXELS.float()).abs().mean()
        for look in looks
    ]
    assert 3 < sum(map(bool, mirrored)) < 17
    never = [augmentation(crop_scale=1.0, horizontal_flip=False)(PIXELS, n) for n in range(5)]
    assert len(never) == 5


def test_erasing_makes_a_hole() -> None:
    erased = augmentation("none", random_erasing=1.0)(PIXELS + 1, 3)
    assert (erased == 0).all(dim=2).sum() > 10


class TestMixing:
    inputs = torch.stack([torch.full((3, 8, 8), float(i)) for i in range(4)])
    targets = torch.tensor([0, 1, 2, 0])

    def mix(self, **alphas: float) -> tuple[Tensor, Tensor]:
        options = {"mixup": 0.0, "cutmix": 0.0}
        torch.manual_seed(0)
        return BatchMixing(3, **(options | alphas))(self.inputs, self.targets)

    def test_off(self) -> None:
        inputs, targets = self.mix()
        assert inputs is self.inputs
        assert targets is self.targets

    def test_mixup_blends_images_and_labels_in_the_same_proportion(self) -> None:
        inputs, targets = self.mix(mixup=1.0)
        share = float(targets[1, 1])  # of image 1, the rest is image 0's (the batch rolled by one)
        assert 0 < share < 1
        assert float(inputs[1].mean()) == pytest.approx(share * 1 + (1 - share) * 0)
        assert targets.sum(dim=1).tolist() == pytest.approx([1.0] * 4)

    def test_cutmix_pastes_a_box_as_large_as_its_share(self) -> None:
        inputs, targets = self.mix(cutmix=1.0)
        pasted = float((inputs[1] == 0).float().mean())
        assert float(targets[1, 0]) == pytest.approx(pasted)
        assert set(inputs[1].unique().tolist()) <= {0.0, 1.0}
