from __future__ import annotations

import pytest
from pydantic import ValidationError

from models.imaging.preprocessing import Preprocessing, Resize, default_resize_size


@pytest.mark.parametrize(("size", "resized"), [(224, 256), (32, 37), (64, 73), (448, 512)])
def test_default_resize_keeps_the_pretrained_ratio(size: int, resized: int) -> None:
    assert default_resize_size(size) == resized


def test_crop_must_fit() -> None:
    with pytest.raises(ValidationError, match="smaller than image_size 64"):
        Preprocessing(image_size=64, resize_size=63)


class TestResize:
    @pytest.mark.parametrize("resize", ["squash", "pad"])
    def test_without_a_crop_there_is_one_size(self, resize: Resize) -> None:
        assert Preprocessing(image_size=64, resize=resize).resize_size == 64
        assert Preprocessing(image_size=64, resize=resize, resize_size=64).resize_size == 64
        with pytest.raises(ValidationError, match=f"73, but resize {resize} crops nothing"):
            Preprocessing(image_size=64, resize=resize, resize_size=73)

    def test_a_wrong_size_is_told_of_first(self) -> None:
        with pytest.raises(ValidationError) as caught:
            Preprocessing(image_size=3, resize="pad")
        assert caught.value.errors()[0]["loc"] == ("image_size",)

    def test_other_words_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="'crop', 'squash' or 'pad'"):
            Preprocessing.model_validate({"resize": "stretch"})

    def test_crop_is_written_as_before_there_was_a_choice(self) -> None:
        """Versions that don't know the key refuse it."""
        written = Preprocessing(image_size=64, resize_size=73).model_dump(mode="json")
        assert list(written) == ["image_size", "resize_size", "interpolation", "mean", "std"]

    @pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
    def test_written_and_read_back(self, resize: Resize) -> None:
        rule = Preprocessing(image_size=64, resize=resize, resize_size=64)
        assert Preprocessing.model_validate_json(rule.model_dump_json()) == rule
        assert rule.model_dump().get("resize", "crop") == resize
