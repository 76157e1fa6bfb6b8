from __future__ import annotations

import os
from pathlib import Path

import pytest

from testing.images import coloured_pixels, encode
from training.data.folders import _MAX_DEPTH, unlabelled
from training.data.listing import Columns, DataError, Listing
from training.data.sources import find_images


def lay(root: Path, *paths: str) -> Path:
    """Files at these paths, each another image."""
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encode(coloured_pixels(seed)))
    return root


def said(root: Path, listing: Listing) -> dict[str, tuple[str, str | None]]:
    return {str(file.path.relative_to(root)): (file.label, file.split) for file in listing.files}


@pytest.mark.parametrize(
    ("train", "judge", "split"),
    [
        ("train", "test", "test"), ("training_set", "test_set", "test"), ("Train", "Test", "test"),
        ("TRAINING", "HOLDOUT", "test"), ("train", "hold-out", "test"), ("train", "eval", "test"),
        ("train", "dev", "val"), ("Training Data", "Validation Data", "val"),
        ("train2017", "val2017", "val"), ("images_train", "images_valid", "val"),
    ],
)  # fmt: skip
def test_split_folders_of_every_name(tmp_path: Path, train: str, judge: str, split: str) -> None:
    lay(tmp_path, f"{train}/cat/1.png", f"{train}/dog/2.png", f"{judge}/cat/3.png")
    assert said(tmp_path, find_images(tmp_path)) == {
        f"{train}/cat/1.png": ("cat", "train"),
        f"{train}/dog/2.png": ("dog", "train"),
        f"{judge}/cat/3.png": ("cat", split),
    }


def test_splits_inside_of_classes(tmp_path: Path) -> None:
    lay(tmp_path, "cat/train/1.png", "cat/test/2.png", "dog/train/images/3.png", "dog/TEST/4.png")
    listing = find_images(tmp_path)
    assert said(tmp_path, listing) == {
        "cat/train/1.png": ("cat", "train"),
        "cat/test/2.png": ("cat", "test"),
        "dog/train/images/3.png": ("dog", "train"),
        "dog/TEST/4.png": ("dog", "test"),
    }
    assert "splits inside of its classes" in listing.notes[0]


def test_a_split_folder_in_itself_as_archives_have_it(tmp_path: Path) -> None:
    lay(tmp_path, "training_set/training_set/cat/1.png", "test_set/test_set/cat/2.png")
    assert sorted(said(tmp_path, find_images(tmp_path)).values()) == [
        ("cat", "test"), ("cat", "train"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["train/a/1.png", "extra/a/2.png"], "split folders .train. and 'extra', which is none"),
        (["a/1.png", "b/2.png", "test/3.png"], "split folders .test. and 'a', which is none"),
        (["part1/a/1.png", "part1/b/2.png", "part2/a/3.png"], "hold the same folders .a."),
        (["p/a/1.png", "p/b/2.png", "q/a/3.png", "q/b/4.png", "q/c/5.png"], "look like splits"),
        (["a/1.png", "b/2.png", "b/test/3.png"], "should hold class/split/file, but .*a/1.png"),
        (["all/train/a/1.png", "all/test/a/2.png"], "give --data .*/all if the splits are in"),
        (["a/old/test/1.png", "b/2.png"], "test is named as a split and lies in class 'a'"),
        (["train/a/test/1.png", "train/b/2.png"], "lies in class 'a'; move it to test/a"),
        (["train/a/1.png", "train/test/2.png"], "train/test is named as a split and lies in"),
        (["test/train/a/1.png", "test/val/a/2.png"], "is named as a split and lies in .*test"),
        (
            ["train/1.png", "test/2.png"],
            "2 are left out, the first: .*2.png: lies in no class",
        ),
    ],
)
def test_layouts_that_would_train_on_what_judges_are_refused(
    tmp_path: Path, paths: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        find_images(lay(tmp_path, *paths))


@pytest.mark.parametrize(
    "paths",
    [
        ["a/images/1.png", "b/images/2.png"],
        ["a/black/1.png", "a/misc/2.png", "b/brown/3.png", "b/misc/4.png"],
        ["a/1.png", "a/old/2.png", "b/3.png", "b/old/4.png"],
        ["a/x/1.png", "b/y/2.png"],
    ],
)
def test_folders_within_classes_are_theirs(tmp_path: Path, paths: list[str]) -> None:
    listing = find_images(lay(tmp_path, *paths))
    assert {file.label for file in listing.files} == {"a", "b"}
    assert len(listing.files) == len(paths)
    assert {file.split for file in listing.files} == {None}


def test_the_user_says_what_a_folder_is(tmp_path: Path) -> None:
    lay(tmp_path, "part1/a/1.png", "part2/a/2.png", "more/a/3.png")
    names = Columns(split_names={"part1": "train", "part2": "test", "more": "ignore"})
    listing = find_images(tmp_path, names)
    assert [file.split for file in listing.files] == ["train", "test"]
    assert [(s.path.name, s.reason) for s in listing.skipped] == [
        ("more", "a split that is ignored")
    ]
    lay(tmp_path / "vehicles", "bus/1.png", "train/2.png")
    listing = find_images(tmp_path / "vehicles", Columns(split_names={"train": "class"}))
    assert [(f.label, f.split) for f in listing.files] == [("bus", None), ("train", None)]


def test_what_lies_beside_the_classes_is_named(tmp_path: Path) -> None:
    lay(tmp_path, "train/a/1.png", "train/b/2.png", "train/3.png", "4.png", "test/5.png")
    listing = find_images(tmp_path)
    assert sorted(file.path.name for file in listing.skipped) == ["3.png", "4.png", "5.png"]
    assert {file.label for file in listing.skipped} == {None}


@pytest.mark.parametrize("name", ["None", "nan", "-1", "unlabelled", "Unlabeled"])
def test_folders_of_missing_labels_are_no_classes(tmp_path: Path, name: str) -> None:
    listing = find_images(lay(tmp_path, "a/1.png", "b/2.png", f"{name}/3.png"))
    assert {file.label for file in listing.files} == {"a", "b"}
    assert [file.reason for file in listing.skipped] == [f"no label (it is in '{name}')"]


class TestLinks:
    def test_linked_folders_and_files_are_followed(self, tmp_path: Path) -> None:
        lay(tmp_path / "elsewhere", "1.png", "sub/2.png")
        root = lay(tmp_path / "data", "b/3.png")
        (root / "a").symlink_to(tmp_path / "elsewhere")
        (root / "b" / "more").symlink_to(tmp_path / "elsewhere" / "sub")
        (root / "b" / "4.png").symlink_to(tmp_path / "elsewhere" / "1.png")
        assert sorted(said(root, find_images(root))) == [
            "a/1.png", "a/sub/2.png", "b/3.png", "b/4.png", "b/more/2.png",
        ]  # fmt: skip

    @pytest.mark.parametrize("target", [".", "..", "../..", "../a", "../../../..", "sub"])
    def test_loops_end_and_are_named(self, tmp_path: Path, target: str) -> None:
        root = lay(tmp_path / "data", "a/1.png", "a/sub/2.png", "b/3.png")
        (root / "a" / "sub" / "loop").symlink_to(target if target != "sub" else "../sub")
        (root / "a" / "z").symlink_to(".")
        listing = find_images(root)
        assert sorted(said(root, listing)) == ["a/1.png", "a/sub/2.png", "b/3.png"]
        assert {file.path.name for file in listing.skipped} == {"loop", "z"}

    def test_two_links_that_lead_to_each_other_are_one_folder(self, tmp_path: Path) -> None:
        """Without an end, 20 such pairs would be a million folders."""
        root = lay(tmp_path, "a/1.png", "b/2.png", "store/deep/3.png")
        (root / "a" / "x").symlink_to(root / "store" / "deep")
        for name in ("left", "right"):
            (root / "store" / "deep" / name).symlink_to(root / "store" / "deep")
        listing = find_images(root)
        assert [f.path.name for f in listing.files if f.label == "a"] == ["1.png", "3.png"]

    @pytest.mark.parametrize("kind", ["dangling", "self", "pipe"])
    def test_what_cannot_be_read_is_named(self, tmp_path: Path, kind: str) -> None:
        lay(tmp_path, "a/1.png", "b/2.png")
        path = tmp_path / "a" / "x.png"
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(path if kind == "self" else tmp_path / "gone.png")
        (skipped,) = find_images(tmp_path).skipped
        assert (skipped.path, skipped.label) == (path, "a")
        reasons = {
            "dangling": "is a dangling link",
            "self": "can't be read: Too many levels of symbolic links",
            "pipe": "is not a regular file",
        }
        assert skipped.reason == reasons[kind]

    def test_a_folder_that_cannot_be_read_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By a fake: root, whom tests may run as, can read everything."""
        lay(tmp_path, "a/1.png", "a/locked/2.png", "b/3.png")
        real = os.scandir

        def scandir(path: Path) -> object:
            if path.name == "locked":
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        listing = find_images(tmp_path)
        (skipped,) = listing.skipped
        assert (skipped.path.name, skipped.label) == ("locked", "a")
        assert skipped.reason == "can't be read: Permission denied"
        assert len(listing.files) == 2

    def test_what_lies_too_deep_is_named(self, tmp_path: Path) -> None:
        deep = "/".join(["d"] * _MAX_DEPTH)
        lay(tmp_path, f"a/{deep}/1.png", f"a/{deep}/d/2.png", "b/3.png")
        listing = find_images(tmp_path)
        assert [file.path.name for file in listing.files] == ["1.png", "3.png"]
        assert [file.reason for file in listing.skipped] == [
            f"lies more than {_MAX_DEPTH} folders deep"
        ]


def test_images_without_labels_are_found_wherever_they_lie(tmp_path: Path) -> None:
    others = lay(tmp_path / "others", "a.png", "train/b.png", "x/test/y/c.png", "x/sound.ogg.png")
    lay(tmp_path / "elsewhere", "d.png")
    (others / "linked").symlink_to(tmp_path / "elsewhere")
    (others / "again").symlink_to(others)
    (others / "dangling.png").symlink_to(tmp_path / "none.png")
    (others / "Thumbs.db").write_bytes(b"side file")
    (others / "sound.ogg").write_bytes(b"OggS")
    found, skipped = unlabelled(others)
    assert [str(path.relative_to(others)) for path in found] == [
        "a.png", "linked/d.png", "train/b.png", "x/sound.ogg.png", "x/test/y/c.png",
    ]  # fmt: skip
    assert sorted(file.path.name for file in skipped) == ["again", "dangling.png"]
    assert {file.label for file in skipped} == {None}
