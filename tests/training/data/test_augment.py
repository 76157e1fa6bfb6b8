from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from models.imaging import image as imaging
from models.imaging.image import load_image, load_part, to_rgb
from models.imaging.preprocessing import Preprocessing, Resize
from testing.images import encode
from tests.models.imaging.test_image import jpeg
from training.data.augment import BatchMixing, ImageAugmentation
from training.data.sampling import derive_seed

RULE = Preprocessing(image_size=32, resize_size=37)
_VALUES = np.arange(32 * 32 * 3) % 251
PIXELS = _VALUES.astype(np.uint8).reshape(32, 32, 3)
CONTENT = encode(PIXELS)
# Of 96 x 32: a red end, a green middle (all that a centre crop shows), a blue end.
STRIP = np.zeros((32, 96, 3), np.uint8)
STRIP[:, :32, 0] = STRIP[:, 32:64, 1] = STRIP[:, 64:, 2] = 255


def augmentation(
    kind: Any = "basic", rule: Preprocessing = RULE, **changes: Any
) -> ImageAugmentation:
    options: dict[str, Any] = {
        "crop_scale": 0.5,
        "horizontal_flip": True,
        "random_erasing": 0.0,
        "seed": 0,
    }
    return ImageAugmentation(kind, rule, **(options | changes))


def test_none_is_what_the_network_sees_of_every_image() -> None:
    expected = load_image(CONTENT, RULE)
    assert (augmentation("none")(CONTENT, 5).numpy() == expected).all()


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("kind", ["basic", "trivial", "rand"])
def test_the_number_decides_and_the_run_goes_on_as_if_nothing_was_drawn(
    kind: Any, resize: Resize
) -> None:
    rule = Preprocessing(image_size=32, resize=resize, resize_size=32)
    augment = augmentation(kind, rule)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    looks = [augment(CONTENT, number) for number in range(8)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(look.shape == (32, 32, 3) and look.dtype == torch.uint8 for look in looks)
    assert all(torch.equal(augment(CONTENT, number), looks[number]) for number in range(8))
    assert len({look.numpy().tobytes() for look in looks}) == 8
    assert not torch.equal(augmentation(kind, rule, seed=1)(CONTENT, 0), looks[0])


def test_flip_alone() -> None:
    """Of a ramp from left to right, whatever part was taken."""
    ramp = np.tile(4 * np.arange(64, dtype=np.uint8)[:, None], (64, 1, 3))

    def is_mirrored(look: Tensor) -> bool:
        return bool(look[16, 0, 0] > look[16, -1, 0])

    flips = augmentation(crop_scale=1.0)
    assert 3 < sum(is_mirrored(flips(encode(ramp), number)) for number in range(20)) < 17
    never = augmentation(crop_scale=1.0, horizontal_flip=False)
    assert not any(is_mirrored(never(encode(ramp), number)) for number in range(20))


def test_erasing_makes_a_hole() -> None:
    white = encode(np.full((32, 32, 3), 255, np.uint8))
    erased = augmentation("none", random_erasing=1.0)(white, 3)
    assert (erased == 0).all(dim=2).sum() > 10


class TestRandomCrop:
    def test_is_torchvisions_of_the_original(self, photos: list[Image.Image]) -> None:
        """Of the same box, resized with context: the edge aside, within two levels."""
        augment = augmentation(horizontal_flip=False)
        for photo, number in (
            (photos[0], 0),
            (photos[1], 1),
            (photos[1].crop((0, 0, 300, 400)), 2),
        ):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(0, "augment", number))
                square = min(photo.size) / max(photo.size)
                box = RandomResizedCrop.get_params(photo, [0.5 * square, square], [3 / 4, 4 / 3])
            expected = np.asarray(resized_crop(photo, *box, size=[32, 32])).astype(int)
            look = augment(encode(np.asarray(photo)), number).numpy().astype(int)
            assert np.abs(look - expected)[2:-2, 2:-2].max() <= 2

    def test_the_ends_of_an_elongated_image_are_trained_on(self) -> None:
        looks = [augmentation()(encode(STRIP), number).numpy() for number in range(60)]
        shares = np.array([(look == 255).mean(axis=(0, 1)) for look in looks])
        assert (shares[:, 0] > 0.5).sum() >= 5  # mostly the red end
        assert (shares[:, 2] > 0.5).sum() >= 5
        assert shares.max(axis=1).mean() > 0.6  # and never all of it: a third, or two halves

    def test_is_as_large_as_what_the_network_is_shown_later(self) -> None:
        """At most the largest square, whatever the shape: objects have the size that they have in
        the centre crop."""
        areas = []

        def spy(width: int, height: int) -> None:
            for _ in range(200):
                left, top, right, bottom = augmentation()._random_part(width, height)
                assert 0 <= left < right <= width
                assert 0 <= top < bottom <= height
                areas.append((right - left) * (bottom - top) / min(width, height) ** 2)

        for size in ((400, 400), (400, 100), (100, 900)):
            spy(*size)
        assert min(areas) >= 0.48
        assert max(areas) <= 1.02  # of pixels that are whole

    def test_small_images_are_cut_between_pixels(self) -> None:
        """Scans of 8 x 8 pixels at 32 px have 32 places each way, and not 8."""
        parts = {augmentation()._random_part(8, 8) for _ in range(300)}
        assert len(parts) > 150
        assert all(4 * edge == int(4 * edge) for part in parts for edge in part)

    @pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (10_000, 3), (3, 2)])
    def test_any_shape(self, size: tuple[int, int]) -> None:
        content = encode(np.full((size[1], size[0], 3), 9, np.uint8))
        for number in range(5):
            assert (augmentation()(content, number) == 9).all()

    def test_turned_by_exif(self) -> None:
        """A part of the upright image: top is top."""
        exif = Image.Exif()
        exif[0x0112] = 6  # what is stored on the left is on top
        buffer = io.BytesIO()
        Image.fromarray(STRIP).save(buffer, "PNG", exif=exif)
        tops = load_part(buffer.getvalue(), 32, lambda width, height: (0, 0, width, 32), least=1)
        assert (tops == [255, 0, 0]).all(axis=2)[:30].all()

    @pytest.mark.parametrize("resize", ["squash", "pad"])
    def test_of_what_is_squashed_or_padded(self, resize: Resize) -> None:
        """Taken from the square: a large enough part of it shows more than one end."""
        rule = Preprocessing(image_size=32, resize=resize)
        augment = augmentation(rule=rule, crop_scale=0.9, horizontal_flip=False)
        for number in range(10):
            look = augment(encode(STRIP), number).numpy().astype(int)
            assert look[16, 0, 0] > 200
            assert look[16, -1, 2] > 200

    @pytest.mark.parametrize(
        ("resize", "crops_from"), [("crop", "image"), ("squash", "square"), ("pad", "square")]
    )
    def test_the_description_says_of_what(self, resize: Resize, crops_from: str) -> None:
        rule = Preprocessing(image_size=32, resize=resize, resize_size=32)
        description = augmentation(rule=rule).description
        assert description is not None
        assert description["crop_from"] == crops_from
        assert augmentation("none", rule).description is None


class TestReducedDecode:
    def test_keeps_the_detail(self, photos: list[Image.Image]) -> None:
        large = photos[0].resize((1600, 1067), Image.Resampling.LANCZOS)
        content = jpeg(large)
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(content)) as decoded:
            decoded.save(buffer, "BMP")
        augment = augmentation("basic", Preprocessing(image_size=64, resize_size=73))
        for number in range(5):
            reduced, full = (augment(data, number) for data in (content, buffer.getvalue()))
            assert 0 < float((reduced.int() - full.int()).abs().float().mean()) <= 2.1

    @pytest.mark.parametrize(
        ("crop_scale", "decoded"),
        [
            # The least part's shorter side is sqrt(3/4 of crop_scale) of the image's: of 2400 px,
            # 2078 and 208; 32 px are wanted, at least 64 of them decoded.
            (1.0, (500, 300)),  # 1/8 is the smallest
            (0.01, (2000, 1200)),  # 1/2 leaves 104, 1/4 would leave 52
        ],
    )
    def test_goes_by_the_smallest_part(
        self, monkeypatch: pytest.MonkeyPatch, crop_scale: float, decoded: tuple[int, int]
    ) -> None:
        sizes = []

        def spy(image: Image.Image) -> Image.Image:
            sizes.append(image.size)
            return to_rgb(image)

        monkeypatch.setattr(imaging, "to_rgb", spy)
        augmentation(crop_scale=crop_scale)(jpeg(Image.new("RGB", (4000, 2400))), 0)
        assert sizes == [decoded]


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
