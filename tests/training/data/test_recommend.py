from __future__ import annotations

import pytest

from training.data.recommend import for_imbalance, recommendations


@pytest.mark.parametrize(("images", "cropped"), [(670, 0), (100, 5), (20, 1), (3, 0)])
def test_a_few_cropped_images_are_no_reason(images: int, cropped: int) -> None:
    assert list(recommendations(cropped, {"a": images})) == []


@pytest.mark.parametrize(("images", "cropped"), [(670, 152), (100, 6), (3, 1)])
def test_more_than_one_in_twenty_is(images: int, cropped: int) -> None:
    (sentence,) = recommendations(cropped, {"a": images})
    assert sentence.startswith(f"{cropped} of {images} images lose more than half")
    assert "--resize squash" in sentence
    assert "--resize pad" in sentence


def test_no_images_at_all() -> None:
    assert list(recommendations(0, {})) == []


@pytest.mark.parametrize(
    "counts", [{"a": 30, "b": 10, "c": 15}, {"a": 3, "b": 3}, {"a": 9, "b": 3}, {"a": 7}]
)
def test_up_to_three_times_is_nothing_to_tell(counts: dict[str, int]) -> None:
    assert list(for_imbalance(counts)) == []


@pytest.mark.parametrize(
    ("counts", "ratio"), [({"a": 31, "b": 10}, "3.1"), ({"a": 10, "b": 30, "c": 500}, "50.0")]
)
def test_weights_where_the_smallest_can_be_learnt_from(counts: dict[str, int], ratio: str) -> None:
    (sentence,) = for_imbalance(counts)
    assert f"{ratio} times fewer: train with --class-weights balanced" in sentence


def test_no_weights_for_a_few_images() -> None:
    """They made a network answer nothing else."""
    (sentence,) = for_imbalance({"a": 247, "b": 9, "c": 40, "d": 3})
    assert sentence.startswith(
        "2 of 4 classes have fewer than 10 images ('d' 3, 'b' 9), the largest 247: add images"
    )
    assert "--class-weights" not in sentence


def test_classes_that_are_all_tiny_are_named() -> None:
    (sentence,) = recommendations(0, {f"class {n}": 2 for n in range(7)} | {"larger": 3})
    assert sentence.startswith(
        "7 of 8 classes have fewer than 3 images ('class 0' 2, 'class 1' 2, 'class 2' 2, "
        "'class 3' 2, 'class 4' 2, ...), too few to train on, validate and test: add images"
    )


def test_tiny_classes_beside_large_ones_are_named_once() -> None:
    assert len(list(recommendations(0, {"a": 2, "b": 100}))) == 1
