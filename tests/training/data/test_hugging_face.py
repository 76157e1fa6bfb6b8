from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from testing.images import coloured_pixels, encode
from training.data.listing import Columns, DataError
from training.data.sources import find_images


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make(labels: list[Any], feature: Any = None, first: int = 0, **columns: Any) -> Any:
    """A data set with an image and a label in each row, and further columns."""
    images = [Image.fromarray(coloured_pixels(first + n)) for n in range(len(labels))]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": feature or datasets.ClassLabel(names=["cat", "dog"]),
            **{name: datasets.Value("string") for name in columns},
        }
    )
    return datasets.Dataset.from_dict(
        {"image": images, "label": labels, **columns}, features=features
    )


def save(tmp_path: Path, **splits: Any) -> Path:
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "hf"))
    return tmp_path / "hf"


def test_hugging_face_data_set_from_disk(tmp_path: Path) -> None:
    split = make([0, 1, 1, 0])
    files = find_images(save(tmp_path, train=split, test=split)).files
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


@pytest.mark.parametrize(
    ("name", "split"),
    [("Test", "test"), ("holdout", "test"), ("TESTING", "test"), ("eval", "test"),
     ("validation", "val"), ("Dev", "val"), ("valid_set", "val")],
)  # fmt: skip
def test_splits_of_every_name(tmp_path: Path, name: str, split: str) -> None:
    data = save(tmp_path, **{"Train": make([0, 1]), name: make([1, 0], first=9)})
    assert [file.split for file in find_images(data).files] == ["train"] * 2 + [split] * 2


@pytest.mark.parametrize("name", ["extra", "unsupervised", "trainval", "all", "fold"])
def test_splits_of_unknown_names_are_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    data = save(tmp_path, **{"train": make([0, 1]), name: make([1, 0], first=9)})
    with pytest.raises(DataError, match=f"has a split '{name}'.*--split-name '{name}=test'"):
        find_images(data)
    told = find_images(data, Columns(split_names={name: "test"}))
    assert [file.split for file in told.files] == ["train"] * 2 + ["test"] * 2
    ignored = find_images(data, Columns(split_names={name: "ignore"}))
    assert [file.split for file in ignored.files] == ["train"] * 2
    assert ignored.skipped[0].reason == f"split '{name}' is ignored (2 rows)"


@pytest.mark.parametrize("column", ["split", "Split", "usage"])
def test_a_column_of_splits_counts_and_the_stricter_word_holds(tmp_path: Path, column: str) -> None:
    columns: dict[str, Any] = {column: ["train", "Holdout", "dev"]}
    rows = make([0, 1, 0], **columns)
    data = save(tmp_path, train=rows)
    assert [file.split for file in find_images(data).files] == ["train", "test", "val"]
    rows.save_to_disk(str(tmp_path / "alone"))
    alone = find_images(tmp_path / "alone").files
    assert [file.split for file in alone] == ["train", "test", "val"]


def test_a_data_set_saved_alone_that_was_cut_from_test_is_test(tmp_path: Path) -> None:
    rows = make([0, 1])
    rows.save_to_disk(str(tmp_path / "plain"))
    assert [file.split for file in find_images(tmp_path / "plain").files] == [None, None]
    test = datasets.Dataset(rows.data, info=rows.info, split=datasets.Split.TEST)
    test.save_to_disk(str(tmp_path / "test"))
    assert [file.split for file in find_images(tmp_path / "test").files] == ["test", "test"]


@pytest.mark.parametrize(
    ("labels", "feature"),
    [
        ([0, -1, 1], None),
        ([0, None, 1], None),
        ([0, -1, 1], datasets.Value("int64")),
        ([0.0, float("nan"), 1.0], datasets.Value("float32")),
        (["x", None, "y"], datasets.Value("string")),
        (["x", "None", "y"], datasets.Value("string")),
        (["x", "", "y"], datasets.Value("string")),
    ],
)
def test_rows_without_a_label_are_counted_and_are_no_class(
    tmp_path: Path, labels: list[Any], feature: Any
) -> None:
    listing = find_images(save(tmp_path, train=make(labels, feature)))
    assert len({file.label for file in listing.files}) == len(listing.files) == 2
    (skipped,) = listing.skipped
    assert str(skipped.path) == "train, row 1"
    assert skipped.reason.startswith("no label")


def test_an_unlabelled_test_split_as_the_hub_has_it(tmp_path: Path) -> None:
    data = save(tmp_path, train=make([0, 1]), test=make([-1, -1], first=9))
    listing = find_images(data)
    assert [file.split for file in listing.files] == ["train", "train"]
    assert len(listing.skipped) == 2


def test_rows_without_an_image_are_counted(tmp_path: Path) -> None:
    images = [
        {"bytes": None, "path": str(tmp_path / "gone.png")}, None,
        {"bytes": encode(coloured_pixels(1)), "path": None},
    ]  # fmt: skip
    features = {"image": datasets.Image(decode=False), "label": datasets.Value("string")}
    rows = datasets.Dataset.from_dict(
        {"image": images, "label": ["a", "b", "c"]}, features=datasets.Features(features)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
        listing = find_images(Path("hf:some/name"))
    assert [file.label for file in listing.files] == ["c"]
    assert [(s.label, s.reason) for s in listing.skipped] == [
        ("a", "can't be read: No such file or directory"), ("b", "no image"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(label="labels"), "column 'labels' holds list and not one label an image"),
        (Columns(image="number"), "column 'number' of .* holds no images"),
        (Columns(split="number"), "has a split '1', which is not a known name"),
        (Columns(split="typo"), "no column 'typo'.*name it with split_column"),
    ],
)
def test_columns_that_hold_something_else(tmp_path: Path, columns: Columns, message: str) -> None:
    rows = make([0, 1]).add_column("labels", [[0, 1], [1]]).add_column("number", [1, 2])
    with pytest.raises(DataError, match=message):
        find_images(save(tmp_path, train=rows), columns)


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
