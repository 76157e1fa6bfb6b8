from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from models.bundle.spec import ModelSpec
from models.errors import BundleError
from models.imaging.preprocessing import Preprocessing


def test_written_and_read_back(tmp_path: Path) -> None:
    spec = ModelSpec(
        labels=("a", "ß", "c d"), preprocessing=Preprocessing(image_size=64, resize_size=73)
    )
    spec.write(tmp_path / "spec.json")
    assert ModelSpec.read(tmp_path / "spec.json") == spec


def test_a_spec_from_before_there_was_a_choice_crops(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(
        '{"format_version": 1, "architecture": "vgg19", "labels": ["a", "b"], "preprocessing": '
        '{"image_size": 64, "resize_size": 73, "interpolation": "bilinear", '
        '"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, '
        '"input_name": "images", "output_name": "probabilities"}'
    )
    spec = ModelSpec.read(tmp_path / "spec.json")
    assert spec.preprocessing == Preprocessing(image_size=64, resize="crop", resize_size=73)
    before = (tmp_path / "spec.json").read_text()
    spec.write(tmp_path / "spec.json")
    assert json.loads((tmp_path / "spec.json").read_text()) == json.loads(before)


@pytest.mark.parametrize("labels", [("a",), ("a", "a")])
def test_labels_are_two_or_more_and_differ(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        ModelSpec(labels=labels)


@pytest.mark.parametrize("content", ["{", "{}", '{"labels": ["a", "b"], "colour": 1}'])
def test_anything_else_is_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "spec.json").write_text(content)
    with pytest.raises(BundleError, match=r"spec\.json is not a model spec"):
        ModelSpec.read(tmp_path / "spec.json")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        ModelSpec.read(tmp_path / "spec.json")
