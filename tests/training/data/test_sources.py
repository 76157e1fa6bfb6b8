from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from testing.images import coloured_pixels, encode, write_image_folder
from training.data.sources import Columns, DataError, find_images


def write_csv(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "labels.csv"
    file.write_text(text)
    return file


def test_csv_with_label_split_and_group(tmp_path: Path) -> None:
    file = write_csv(
        tmp_path, "path,label,split,group\na.png,cat,train,p1\nsub/b.png,dog,Validation,\n"
    )
    first, second = find_images(file).files
    assert (first.path, first.label, first.split, first.group) == (
        tmp_path / "a.png", "cat", "train", "p1",
    )  # fmt: skip
    assert (second.path, second.split, second.group) == (tmp_path / "sub" / "b.png", "val", None)


def test_csv_without_split_says_nothing_about_it(tmp_path: Path) -> None:
    (only,) = find_images(write_csv(tmp_path, "﻿path,label\n/abs/a.png,cat\n")).files
    assert (only.path, only.split) == (Path("/abs/a.png"), None)


def test_other_column_names(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "file,species\na.png,cat\n")
    (only,) = find_images(file, Columns(image="file", label="species")).files
    assert only.label == "cat"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'path'"),
        ("path,label\n", "has no rows"),
        ("file,label\na,b\n", r"no column 'path' \(it has file, label\)"),
        ("path,label\na.png,\n", "no labelled image; 1 are left out, the first: .*a.png: no label"),
        ("path,label,split\na.png,x,train\nb.png,x,\n", "line 3: has a split '', which is not a"),
        ("path,label,split\na.png,x,extra\n", "has a split 'extra'"),
    ],
)
def test_csv_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_images(write_csv(tmp_path, text))


def test_hugging_face_data_set_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = [Image.fromarray(coloured_pixels(seed)) for seed in range(4)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    split = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 1, 0]}, features=features)
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(str(tmp_path / "hf"))

    files = find_images(tmp_path / "hf").files

    assert [(file.label, file.split) for file in files] == [
        *[(label, "train") for label in ("cat", "dog", "dog", "cat")],
        *[(label, "test") for label in ("cat", "dog", "dog", "cat")],
    ]
    assert files[0].path == files[4].path  # the same content is written once
    assert len({file.path for file in files}) == 4
    with Image.open(files[1].path) as image:
        assert np.array_equal(np.asarray(image), coloured_pixels(1))
    with pytest.raises(DataError, match=r"no column 'species' \(it has image, label\)"):
        find_images(tmp_path / "hf", Columns(label="species"))


def test_a_hub_data_set_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str, revision: str | None) -> None:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"hf:org/name can't be loaded: no network in tests"):
        find_images(Path("hf:org/name"))


@pytest.mark.parametrize(
    ("data", "asked"),
    [("hf:org/name", ("org/name", None)), ("hf:org/name@1a2b3c", ("org/name", "1a2b3c"))],
)
def test_a_data_set_of_the_hub_at_a_revision(
    monkeypatch: pytest.MonkeyPatch, data: str, asked: tuple[str, str | None]
) -> None:
    calls: list[tuple[str, str | None]] = []

    def note(name: str, revision: str | None) -> None:
        calls.append((name, revision))
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", note)
    with pytest.raises(DataError):
        find_images(Path(data))
    assert calls == [asked]


def test_a_file_that_is_neither(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encode(coloured_pixels(0)))
    with pytest.raises(DataError, match="neither a directory with one folder per class nor"):
        find_images(tmp_path / "x.png")


def test_folder_order_is_fixed(tmp_path: Path) -> None:
    write_image_folder(tmp_path, {"red": 3, "blue": 3})
    assert find_images(tmp_path) == find_images(tmp_path)
    assert [file.label for file in find_images(tmp_path).files] == ["blue"] * 3 + ["red"] * 3
