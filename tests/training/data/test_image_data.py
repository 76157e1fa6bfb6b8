from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from models.imaging.preprocessing import Preprocessing
from testing.images import COLOURS, write_image_folder
from training.data.checks import Sample
from training.data.image_data import ImageData, load_images, load_labelled_images
from training.data.sources import DataError
from training.data.splits import split_off
from training.reporter import SilentReporter

RULE = Preprocessing(image_size=32, resize_size=32)


def load(root: Path, reporter: SilentReporter | None = None, **changes: Any) -> ImageData:
    options = {
        "label_column": "label",
        "image_column": None,
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "max_bad_fraction": 0.1,
        "seed": 0,
    }
    return load_images(root, RULE, **(options | changes), reporter=reporter or SilentReporter())


class TestSplit:
    def test_a_class_folder_is_split_by_class(self, tmp_path: Path) -> None:
        data = load(write_image_folder(tmp_path, {"blue": 20, "green": 10}))
        assert data.labels == ("blue", "green")
        assert data.counts() == {
            "train": {"blue": 12, "green": 6},
            "val": {"blue": 4, "green": 2},
            "test": {"blue": 4, "green": 2},
        }
        assert data.held_out == "test"
        assert not data.skipped

    def test_split_folders_are_kept_and_val_is_taken_from_train(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path / "train", {"blue": 10, "red": 10})
        write_image_folder(tmp_path / "test", {"blue": 3, "red": 2}, first_seed=100)
        data = load(tmp_path)
        assert data.counts()["val"] == {"blue": 2, "red": 2}
        assert data.counts()["test"] == {"blue": 3, "red": 2}
        assert {s.path.parts[-3] for s in data.split("val")} == {"train"}
        assert {s.path.parts[-3] for s in data.split("test")} == {"test"}

    def test_a_given_val_is_the_val(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path / "train", {"blue": 5, "red": 5})
        write_image_folder(tmp_path / "validation", {"blue": 2, "red": 2}, first_seed=100)
        data = load(tmp_path)
        assert data.counts()["train"] == {"blue": 5, "red": 5}
        assert data.counts()["val"] == {"blue": 2, "red": 2}
        assert data.held_out == "val"

    def test_names_and_places_do_not_matter_and_the_seed_does(self, tmp_path: Path) -> None:
        def test_contents(data: ImageData) -> set[str]:
            return {sample.sha256 for sample in data.split("test")}

        first = write_image_folder(tmp_path / "a", {"blue": 20, "red": 20})
        second = write_image_folder(tmp_path / "b" / "c", {"blue": 20, "red": 20})
        for number, file in enumerate(sorted(second.rglob("*.png"))):
            file.rename(file.with_name(f"renamed-{99 - number}.png"))
        assert test_contents(load(first)) == test_contents(load(second))
        assert load(first).fingerprint() == load(second).fingerprint()
        assert test_contents(load(first, seed=1)) != test_contents(load(first))

    def test_copies_of_an_image_stay_on_one_side(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"blue": 12, "red": 12})
        for file in list(tmp_path.rglob("*.png")):
            file.with_name(f"copy-{file.name}").write_bytes(file.read_bytes())
        sides = {(s.sha256, s.split) for s in load(tmp_path).samples}
        assert max(Counter(content for content, _ in sides).values()) == 1

    def test_three_images_a_class_are_enough(self, tmp_path: Path) -> None:
        data = load(write_image_folder(tmp_path, {"blue": 3, "red": 3}))
        assert data.counts()["train"] == {"blue": 1, "red": 1}
        assert data.split("val")

    def test_no_test_split_when_not_wanted(self, tmp_path: Path) -> None:
        data = load(write_image_folder(tmp_path, {"blue": 9, "red": 9}), test_fraction=0.0)
        assert data.split("test") == []
        assert data.held_out == "val"


def test_fingerprint_changes_with_content_label_and_split(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "train", {"blue": 5, "red": 5})
    before = load(tmp_path).fingerprint()
    file = next((tmp_path / "train" / "blue").iterdir())
    file.rename(tmp_path / "train" / "red" / "moved.png")
    assert load(tmp_path).fingerprint() != before


def test_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    sample = load(write_image_folder(tmp_path, {"blue": 5, "red": 5})).samples[0]
    assert sample.sha256 == hashlib.sha256(sample.path.read_bytes()).hexdigest()


class TestBadFiles:
    def test_are_named_counted_and_skipped(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"blue": 19, "red": 19})
        (tmp_path / "blue" / "notes.txt").write_text("not an image")
        whole = (tmp_path / "red" / "0019.png").read_bytes()
        (tmp_path / "red" / "half.png").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "red" / ".DS_Store").write_bytes(b"hidden files don't count")
        reporter = SilentReporter()

        data = load(tmp_path, reporter)

        assert len(data.samples) == 38
        assert {file.path.name for file in data.skipped} == {"notes.txt", "half.png"}
        text = "\n".join(reporter.warnings)
        assert "2 of 40 files are not images" in text
        assert f"{tmp_path / 'red' / 'half.png'}: the image is truncated" in text

    def test_too_many_in_a_class_are_an_error(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"blue": 8, "red": 20})
        (tmp_path / "blue" / "a.txt").write_text("")
        (tmp_path / "blue" / "b.txt").write_text("")
        message = r"2 of 10 files of class 'blue' .*20%, --max-bad-fraction is 10%.*a\.txt"
        with pytest.raises(DataError, match=message):
            load(tmp_path)
        assert len(load(tmp_path, max_bad_fraction=0.2).skipped) == 2


class TestErrors:
    def test_no_directory(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="does not exist"):
            load(tmp_path / "none")

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "f").touch()
        with pytest.raises(DataError, match="is neither a directory"):
            load(tmp_path / "f")

    def test_an_empty_directory(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds no folders"):
            load(tmp_path)

    def test_one_class(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"one class \('blue'\).*at least 2"):
            load(write_image_folder(tmp_path, {"blue": 4}))

    def test_an_empty_class(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"blue": 4, "red": 4, "green": 0})
        with pytest.raises(DataError, match="class 'green' .* is empty"):
            load(tmp_path)

    def test_a_class_in_test_only(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path / "train", {"blue": 4, "red": 4})
        write_image_folder(tmp_path / "test", {"green": 1})
        with pytest.raises(DataError, match="class 'green' .* has no training images"):
            load(tmp_path)

    def test_too_few_to_validate(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="too few images"):
            load(write_image_folder(tmp_path, {"blue": 1, "red": 1}))

    def test_a_stranger_among_split_folders(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path / "train", {"blue": 4, "red": 4})
        write_image_folder(tmp_path / "test", {"blue": 4, "red": 4})
        write_image_folder(tmp_path / "unlabelled", {"green": 1})
        with pytest.raises(DataError, match="and 'unlabelled', which is none"):
            load(tmp_path)

    def test_a_name_that_is_not_utf8(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"blue": 4})
        (Path(str(tmp_path)) / os.fsdecode(b"caf\xe9")).mkdir()
        with pytest.raises(DataError, match="is not UTF-8; rename it"):
            load(tmp_path)


def test_hidden_folders_and_capitals(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "Train", {"blue": 6, "red": 6})
    write_image_folder(tmp_path / "TEST", {"blue": 2, "red": 2}, first_seed=100)
    (tmp_path / "__MACOSX").mkdir()
    hidden = tmp_path / "Train" / "blue" / ".ipynb_checkpoints"
    hidden.mkdir()
    (hidden / "x.png").write_bytes((tmp_path / "Train" / "blue" / "0000.png").read_bytes())
    data = load(tmp_path)
    assert data.labels == ("blue", "red")
    assert sum(data.counts()["train"].values()) + len(data.split("val")) == 12
    assert data.counts()["test"] == {"blue": 2, "red": 2}


class TestLabelledImages:
    def test_all_are_test_images(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"red": 2})
        data = load_labelled_images(tmp_path, COLOURS, RULE, SilentReporter())
        assert data.counts()["test"] == {"blue": 0, "green": 0, "red": 2}
        assert data.held_out == "test"

    def test_unknown_class(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"red": 2})
        with pytest.raises(DataError, match="class 'red' .* none of the model's: a, b"):
            load_labelled_images(tmp_path, ("a", "b"), RULE, SilentReporter())

    def test_no_readable_image(self, tmp_path: Path) -> None:
        (tmp_path / "red").mkdir()
        (tmp_path / "red" / "x").touch()
        with pytest.raises(DataError, match="no readable image"):
            load_labelled_images(tmp_path, COLOURS, RULE, SilentReporter())


class TestGroups:
    def samples(self, groups: dict[str, str]) -> list[Sample]:
        """Image -> group; the label is the first letter of the image."""
        return [
            Sample(Path(name), name[0], "train", f"content of {name}", group)
            for name, group in groups.items()
        ]

    def test_a_group_never_crosses_the_split(self) -> None:
        groups = {f"{'ab'[i % 2]}{i}": f"patient {i // 4}" for i in range(80)}
        for seed in range(5):
            after = split_off(self.samples(groups), "test", 0.25, seed)
            sides = {(sample.group, sample.split) for sample in after}
            assert len(sides) == 20
            moved = Counter(s.label for s in after if s.split == "test")
            assert moved == {"a": 10, "b": 10}  # a quarter, of each class

    def test_large_groups_go_over_the_fraction_rather_than_leave_a_class_out(self) -> None:
        groups = {f"a{i}": f"g{i // 5}" for i in range(10)} | {f"b{i}": f"h{i}" for i in range(10)}
        after = split_off(self.samples(groups), "test", 0.2, seed=0)
        moved = Counter(s.label for s in after if s.split == "test")
        assert moved == {"a": 5, "b": 2}


def test_images_outside_of_the_root_are_described_absolute(tmp_path: Path) -> None:
    """`..` from behind a link leads elsewhere than from the link: a table in a linked folder."""
    write_image_folder(tmp_path / "images", {"blue": 4, "red": 4})
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "jobs").symlink_to(tmp_path / "disk" / "deep")
    table = tmp_path / "jobs" / "data.csv"
    images = sorted(tmp_path.glob("images/*/*"))
    rows = "".join(f"{image},{image.parent.name}\n" for image in images)
    table.write_text(f"path,label\n{rows}")
    for data in (table, tmp_path / "images"):
        described = load(data).describe()
        root = Path(described["root"])
        assert all((root / file["path"]).is_file() for file in described["files"])
    assert not any(Path(file["path"]).is_absolute() for file in described["files"])
