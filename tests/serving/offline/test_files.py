from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.acceptance import Acceptance
from serving.engine.session import ModelOutput
from serving.offline.files import Classified, PredictError, classify_files, find_files
from testing.bundles import tiny_probabilities, tiny_spec
from testing.images import coloured_pixels, encode


class Model:
    """The tiny model in numpy; remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[ModelOutput]:
        self.sizes.append(len(images))
        distances = [float(image[0, 0, 0]) / 100 for image in images]
        rows = tiny_probabilities(np.stack(images))
        return [ModelOutput(*pair) for pair in zip(rows, distances, strict=True)]


def classify(files: Sequence[Path], model: Model, batch_size: int = 4) -> list[Classified]:
    return list(
        classify_files(
            map(str, files), model, tiny_spec(), None, top_k=2, batch_size=batch_size, threads=2
        )
    )


def write(place: Path, count: int) -> list[Path]:
    files = [place / f"{number}.png" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(encode(coloured_pixels(number)))
    return files


def test_every_file_gets_its_own_labels_in_order_and_full_batches(tmp_path: Path) -> None:
    files, model = write(tmp_path, 11), Model()
    found = classify(files, model)
    assert [one.file for one in found] == list(map(str, files))
    expected = tiny_probabilities(np.stack([coloured_pixels(number) for number in range(11)]))
    for one, row in zip(found, expected, strict=True):
        assert [p.index for p in one.predictions] == (-row).argsort()[:2].tolist()
        assert one.predictions[0].probability == pytest.approx(row.max(), abs=1e-6)
    assert model.sizes == [4, 4, 3]


def test_what_cannot_be_read_has_an_error_and_shifts_nothing(tmp_path: Path) -> None:
    files = write(tmp_path, 6)
    whole = [one.predictions[0].label for one in classify(files, Model())]
    files[1].write_bytes(b"no image")
    files[4].unlink()
    found = classify(files, Model())
    assert "not an image" in found[1].error
    assert "can't be read" in found[4].error
    labels = [one.predictions[0].label if one.predictions else "" for one in found]
    assert labels == [whole[0], "", whole[2], whole[3], "", whole[5]]


def test_a_batch_without_any_image_runs_nothing(tmp_path: Path) -> None:
    model = Model()
    found = classify([tmp_path / "none.png"] * 3, model, batch_size=3)
    assert [bool(one.error) for one in found] == [True] * 3
    assert model.sizes == []


def test_files_are_asked_for_only_as_they_are_needed(tmp_path: Path) -> None:
    """Of a million files, three batches are in memory at most."""
    (file,), asked = write(tmp_path, 1), 0

    def endless() -> Iterator[str]:
        nonlocal asked
        while True:
            asked += 1
            yield str(file)

    found = classify_files(endless(), Model(), tiny_spec(), None, top_k=1, batch_size=4, threads=2)
    assert len(list(islice(found, 5))) == 5
    assert asked <= 5 + 3 * 4


def test_which_are_accepted(tmp_path: Path) -> None:
    """The stub's distance is the first value over 100, so some are beyond 1 and some are not."""
    files = write(tmp_path, 20)
    acceptance = Acceptance(target_precision=0.9, min_confidence=0.5)
    found = list(
        classify_files(
            map(str, files), Model(), tiny_spec(), acceptance, top_k=1, batch_size=4, threads=2
        )
    )
    for number, one in enumerate(found):
        distance = coloured_pixels(number)[0, 0, 0] / 100
        assert one.distance == pytest.approx(distance)
        assert one.accepted == (one.predictions[0].probability >= 0.5 and distance <= 1)
    assert {one.accepted for one in found} == {True, False}


def test_what_a_folder_has_besides_is_counted_by_its_ending(tmp_path: Path) -> None:
    images = write(tmp_path, 2)
    for name in ("a.heic", "b.HEIC", "sub/c.txt", "README", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    said: list[str] = []
    assert find_files([str(tmp_path), str(tmp_path)], said.append) == sorted(map(str, images))
    (line,) = said
    assert line.startswith("4 files (2 .heic, ")
    assert "1 .txt" in line
    assert "1 without an ending" in line
    assert ".jpg" in line.partition("skipped")[2]
    said.clear()
    find_files([str(file) for file in images], said.append)
    assert said == []  # what is named is never skipped


def test_many_endings_are_one_line(tmp_path: Path) -> None:
    write(tmp_path, 1)
    for number in range(9):
        (tmp_path / f"a.x{number}").write_text("")
    (tmp_path / f"a.{'y' * 200}").write_text("")
    said: list[str] = []
    find_files([str(tmp_path)], said.append)
    assert said[0].startswith("10 files (")
    assert "..." in said[0]
    assert len(said[0]) < 200


def test_a_folder_of_other_files_says_which(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_text("")
    with pytest.raises(PredictError, match=r"no image files .* \(it has 1 file \(1 \.heic\)\)"):
        find_files([str(tmp_path)])
