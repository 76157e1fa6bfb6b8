from __future__ import annotations

from pathlib import Path

import pytest

from training.data.listing import Columns, DataError, Listing
from training.data.sources import find_images


def write_csv(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "labels.csv"
    file.write_text(text)
    return file


def find(folder: Path, text: str, **columns: object) -> Listing:
    return find_images(write_csv(folder, text), Columns(**columns))  # type: ignore[arg-type]


def test_csv_with_label_split_and_group(tmp_path: Path) -> None:
    first, second = find(
        tmp_path, "path,label,split,group\na.png,cat,train,p1\nsub/b.png,dog,Validation,\n"
    ).files
    assert (first.path, first.label, first.split, first.group) == (
        tmp_path / "a.png", "cat", "train", "p1",
    )  # fmt: skip
    assert (second.path, second.split, second.group) == (tmp_path / "sub" / "b.png", "val", None)


def test_csv_without_split_says_nothing_about_it(tmp_path: Path) -> None:
    (only,) = find(tmp_path, "\ufeffpath,label\n/abs/a.png,cat\n").files
    assert (only.path, only.split) == (Path("/abs/a.png"), None)


def test_a_column_of_splits_that_is_empty_says_nothing(tmp_path: Path) -> None:
    assert [f.split for f in find(tmp_path, "path,label,split\na,x,\nb,y, \n").files] == [None] * 2


def test_other_column_names(tmp_path: Path) -> None:
    (only,) = find(
        tmp_path, "file,species,part\na.png,cat,dev\n", image="file", label="species", split="part"
    ).files
    assert (only.label, only.split) == ("cat", "val")


@pytest.mark.parametrize("column", ["split", "Split", "SPLIT", " split ", "splits", "subset",
                                    "Partition", "usage", "is_for"])  # fmt: skip
@pytest.mark.parametrize(("own", "split"), [("Test", "test"), ("holdout", "test"), ("dev", "val")])
def test_no_column_of_splits_is_ignored(tmp_path: Path, column: str, own: str, split: str) -> None:
    listing = find(tmp_path, f"Path,LABEL,{column}\na.png,x,Training\nb.png,y,{own}\n")
    assert [file.split for file in listing.files] == ["train", split]


def test_what_the_user_calls_splits(tmp_path: Path) -> None:
    names = {"0": "train", "1": "test", "2": "ignore"}
    listing = find(tmp_path, "path,label,fold\na,x,0\nb,y,1\nc,y,2\n", split="fold",
                   split_names=names)  # fmt: skip
    assert [file.split for file in listing.files] == ["train", "test"]
    (skipped,) = listing.skipped
    assert (skipped.path.name, skipped.reason) == ("c", "in split '2', which is ignored")


@pytest.mark.parametrize(
    "label", ["", " ", "-1", "-1.0", "none", "None", "NONE", "null", "NaN", "nan", "<NA>", "N/A",
              "#N/A", "unlabelled", "Unlabeled"],
)  # fmt: skip
def test_rows_without_a_label_are_counted_and_are_no_class(tmp_path: Path, label: str) -> None:
    listing = find(tmp_path, f"path,label\na.png,x\nb.png,{label}\nc.png,y\n")
    assert [file.label for file in listing.files] == ["x", "y"]
    (skipped,) = listing.skipped
    assert (skipped.path, skipped.label) == (tmp_path / "b.png", None)
    assert skipped.reason.startswith("no label")


def test_short_and_empty_rows_are_counted(tmp_path: Path) -> None:
    listing = find(tmp_path, "path,label\na.png,x\n\nb.png\n,y\n")
    assert [file.path.name for file in listing.files] == ["a.png"]
    assert [file.reason for file in listing.skipped] == ["no label ('')", "line 5 names no image"]


@pytest.mark.parametrize("label", ["0", "1", "unknown", "other", "nothing", "NA", "no"])
def test_labels_that_are_labels(tmp_path: Path, label: str) -> None:
    (only,) = find(tmp_path, f"path,label\na.png,{label}\n").files
    assert only.label == label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'path'"),
        ("path,label\n", "has no rows"),
        ("file,label\na,b\n", r"no column 'path' \(it has file, label\)"),
        ("path,label\na.png,\n", "no labelled image; 1 are left out, the first: .*a.png: no label"),
        ("path,label,split\na.png,x,train\nb.png,x,\n", "line 3: has a split '', which is not a"),
        ("path,label,split\na.png,x,extra\n", "has a split 'extra'.*--split-name 'extra=test'"),
        ("path,label,Split\na.png,x,train\nb.png,x,fold 3\n", "has a split 'fold 3'"),
        ("path,label,subset\na.png,x,train\nb.png,x,public\n", "has a split 'public'"),
        ("path,label,Split,split \na.png,x,train,test\n", "Split and split  both name splits"),
        ("path,label,a,b\np,x,train,test\nq,x,val,val\n", "a and b both name splits"),
        ("path,label,label\na.png,x,y\n", "has 2 columns 'label'"),
        ("path,label\na,b.png,cat\n", r"line 2: more cells than the header's 2 \('cat'\)"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find(tmp_path, text)


@pytest.mark.parametrize("option", ["label", "image", "split"])
def test_a_column_that_was_named_and_is_not_there(tmp_path: Path, option: str) -> None:
    message = f"no column 'typo' .it has path, label.; name it with {option}_column in the config"
    with pytest.raises(DataError, match=message):
        find(tmp_path, "path,label\na,b\n", **{option: "typo"})
