from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from models.imaging.preprocessing import Preprocessing
from testing.images import COLOURS, coloured_pixels, encode, write_image_folder
from training.data.checks import Sample, judged_nowhere
from training.data.image_data import ImageData, load_images, load_labelled_images
from training.data.listing import Columns, DataError
from training.data.splits import split_off
from training.reporter import SilentReporter

RULE = Preprocessing(image_size=32, resize_size=32)


def load(root: Path, reporter: SilentReporter | None = None, **changes: Any) -> ImageData:
    options: dict[str, Any] = {
        "columns": Columns(),
        "allow_conflicting_labels": False,
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "max_bad_fraction": 0.1,
        "seed": 0,
        "split_by": "exact",
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

    @pytest.mark.parametrize("split_by", ["hash", "exact"])
    def test_names_and_places_do_not_matter_and_the_seed_does(
        self, tmp_path: Path, split_by: str
    ) -> None:
        def test_contents(data: ImageData) -> set[str]:
            return {sample.sha256 for sample in data.split("test")}

        first = write_image_folder(tmp_path / "a", {"blue": 20, "red": 20})
        second = write_image_folder(tmp_path / "b" / "c", {"blue": 20, "red": 20})
        for number, file in enumerate(sorted(second.rglob("*.png"))):
            file.rename(file.with_name(f"renamed-{99 - number}.png"))
        one, other = (load(root, split_by=split_by) for root in (first, second))
        assert test_contents(one) == test_contents(other)
        assert one.fingerprint() == other.fingerprint()
        assert test_contents(load(first, seed=1, split_by=split_by)) != test_contents(one)

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
        (tmp_path / "blue" / "notes.jpg").write_text("not an image")
        whole = (tmp_path / "red" / "0019.png").read_bytes()
        (tmp_path / "red" / "half.png").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "red" / ".DS_Store").write_bytes(b"hidden files don't count")
        reporter = SilentReporter()

        data = load(tmp_path, reporter)

        assert len(data.samples) == 38
        assert {file.path.name for file in data.skipped} == {"notes.jpg", "half.png"}
        text = "\n".join(reporter.warnings)
        assert "2 of 40 files are not images" in text
        assert f"{tmp_path / 'red' / 'half.png'}: the image is truncated" in text

    def test_too_many_in_a_class_are_an_error(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"blue": 8, "red": 20})
        (tmp_path / "blue" / "a.gif").write_text("")
        (tmp_path / "blue" / "b.gif").write_text("")
        message = r"2 of 10 files of class 'blue' .*20%.*a\.gif.*than 10% of a class with --max-bad"
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
        with pytest.raises(DataError, match="class 'green' .* holds no image"):
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
        data, _ = load_labelled_images(tmp_path, COLOURS, RULE, SilentReporter())
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


class TestJudgingSplit:
    """`evaluate --data`."""

    @pytest.mark.parametrize(
        ("splits", "count", "what"),
        [
            ({"train": 3, "val": 2, "test": 1}, 1, "the test split .without 3 of train, 2 of val."),
            ({"Train": 3, "Holdout": 2}, 2, "the test split .without 3 of train."),
            ({"train": 3, "dev": 2}, 2, "the val split .without 3 of train."),
            ({"test": 2}, 2, "the test split"),
            ({"train": 2}, 2, "the train split, the only one,"),
            ({"": 4}, 4, "all images"),
        ],
    )
    def test_the_test_split_is_judged_where_there_is_one(
        self, tmp_path: Path, splits: dict[str, int], count: int, what: str
    ) -> None:
        for number, (name, images) in enumerate(splits.items()):
            write_image_folder(tmp_path / name, {"red": images}, first_seed=100 * number)
        data, said = load_labelled_images(tmp_path, COLOURS, RULE, SilentReporter())
        assert len(data.samples) == len(data.split("test")) == count
        assert re.fullmatch(f"{what} of {tmp_path}", said)

    def test_a_class_the_model_does_not_know_may_be_in_what_is_not_judged(
        self, tmp_path: Path
    ) -> None:
        write_image_folder(tmp_path / "train", {"red": 2, "blue": 1})
        write_image_folder(tmp_path / "test", {"red": 2}, first_seed=9)
        data, _ = load_labelled_images(tmp_path, ("red", "x"), RULE, SilentReporter())
        assert len(data.samples) == 2


class TestCopiesInSeveralSplits:
    @pytest.mark.parametrize(
        ("splits", "kept"),
        [
            (("train", "test"), "test"),
            (("train", "val"), "val"),
            (("val", "test"), "test"),
            (("train", "val", "test"), "test"),
        ],
    )
    def test_stay_where_they_judge_and_are_named(
        self, tmp_path: Path, splits: tuple[str, ...], kept: str
    ) -> None:
        for number, split in enumerate(("train", "val", "test")):
            write_image_folder(tmp_path / split, {"blue": 4, "red": 4}, first_seed=100 * number)
        content = encode(coloured_pixels(999, "red"))
        for split in splits:
            (tmp_path / split / "red" / "same.png").write_bytes(content)
        reporter = SilentReporter()
        data = load(tmp_path, reporter)
        digest = hashlib.sha256(content).hexdigest()
        assert [s.split for s in data.samples if s.sha256 == digest] == [kept]
        assert len(data.skipped) == len(splits) - 1
        assert f"{len(splits) - 1} images lie in several splits" in reporter.warnings[0]

    def test_also_where_a_link_leads_from_train_to_test(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path / "train", {"blue": 4, "red": 4})
        write_image_folder(tmp_path / "test", {"blue": 4, "red": 4}, first_seed=100)
        (tmp_path / "train" / "red" / "more").symlink_to(tmp_path / "test" / "red")
        data = load(tmp_path)
        judging = {s.sha256 for s in data.samples if s.split != "train"}
        assert not judging & {s.sha256 for s in data.split("train")}
        assert len(data.split("test")) == 8

    def test_groups_that_the_data_cuts_in_two_are_named(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"blue": 6, "red": 6})
        rows = [
            f"{file},{file.parent.name},{'test' if number % 3 == 0 else 'train'},g{number // 2}"
            for number, file in enumerate(sorted(tmp_path.rglob("*.png")))
        ]
        (tmp_path / "x.csv").write_text("\n".join(["path,label,split,group", *rows]))
        reporter = SilentReporter()
        load(tmp_path / "x.csv", reporter)
        (warning,) = reporter.warnings
        assert warning.startswith("4 groups lie in several splits")
        assert warning.endswith("g0, g1, g3, ...")


class TestTwoLabels:
    def table(self, root: Path, *rows: str) -> Path:
        write_image_folder(root, {"blue": 4, "red": 4})
        named = [f"{f.relative_to(root)},{f.parent.name}" for f in sorted(root.rglob("*.png"))]
        (root / "x.csv").write_text("\n".join(["path,label", *named, *rows]))
        return root / "x.csv"

    @pytest.mark.parametrize("path", ["blue/0000.png", "./blue/0000.png", "red/../blue/0000.png",
                                      "copy.png"])  # fmt: skip
    def test_of_one_image_in_a_table_are_refused_unless_allowed(
        self, tmp_path: Path, path: str
    ) -> None:
        table = self.table(tmp_path, f"{path},red")
        (tmp_path / "copy.png").write_bytes((tmp_path / "blue" / "0000.png").read_bytes())
        message = "1 images have two labels, the first: 'blue' .* and 'red' .*allow_conflicting"
        with pytest.raises(DataError, match=message):
            load(table)
        with pytest.raises(DataError, match=message):
            load_labelled_images(table, COLOURS, RULE, SilentReporter())
        reporter = SilentReporter()
        data = load(table, reporter, allow_conflicting_labels=True)
        assert len(data.samples) == 9
        assert reporter.warnings[0] == "1 images have two labels:"

    def test_of_one_image_in_folders_are_said(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"blue": 4, "red": 4})
        (tmp_path / "red" / "b.png").write_bytes((tmp_path / "blue" / "0000.png").read_bytes())
        reporter = SilentReporter()
        assert len(load(tmp_path, reporter).samples) == 9
        assert reporter.warnings[0] == "1 images have two labels:"
        assert "'blue'" in reporter.warnings[1]
        assert "'red'" in reporter.warnings[1]

    def test_one_label_twice_is_no_conflict(self, tmp_path: Path) -> None:
        reporter = SilentReporter()
        load(self.table(tmp_path, "blue/0000.png,blue"), reporter)
        assert reporter.warnings == []


class TestClassesThatAreJudgedNowhere:
    def test_one_image_in_a_class(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"blue": 9, "green": 1, "red": 9})
        reporter = SilentReporter()
        data = load(tmp_path, reporter)
        assert [s.split for s in data.samples if s.label == "green"] == ["train"]
        (warning,) = reporter.warnings
        assert warning.startswith("class 'green' is trained on and judged nowhere")

    def test_a_class_that_the_test_split_lacks(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path / "train", {"blue": 9, "green": 9, "red": 9})
        write_image_folder(tmp_path / "test", {"blue": 3, "red": 3}, first_seed=100)
        reporter = SilentReporter()
        load(tmp_path, reporter)
        assert reporter.warnings == [
            "class 'green' is judged on val only, without an image in test"
        ]

    @pytest.mark.parametrize(("val_is_drawn", "expected"), [(True, ["b"]), (False, ["b", "c"])])
    def test_before_and_after_val_is_drawn(self, val_is_drawn: bool, expected: list[str]) -> None:
        splits = [("a", "train"), ("a", "val"), ("b", "train"), ("c", "train"), ("c", "train"),
                  ("d", "train"), ("d", "test")]  # fmt: skip
        samples = [
            Sample(Path(str(n)), label, split, str(n))  # type: ignore[arg-type]
            for n, (label, split) in enumerate(splits)
        ]
        assert judged_nowhere(samples, val_is_drawn=val_is_drawn) == expected


class TestWhatIsLeftOut:
    def test_missing_images_and_labels_are_counted_in_the_record(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"blue": 20, "red": 20})
        rows = [f"{f},{f.parent.name}" for f in sorted(tmp_path.rglob("*.png"))]
        rows += ["gone.png,blue", "a.png,-1", "b.png,", ",red", "nul\0.png,red", f"{tmp_path},red"]
        (tmp_path / "x.csv").write_text("\n".join(["path,label", *rows]))
        reporter = SilentReporter()
        data = load(tmp_path / "x.csv", reporter, max_bad_fraction=0.1)
        assert len(data.samples) == 40
        assert data.labels == ("blue", "red")
        assert len(data.describe()["skipped"]) == 6
        text = "\n".join(reporter.warnings)
        assert "3 of 46 listed are left out:" in text
        assert "3 of 43 files are not images and are skipped:" in text
        for words in ("gone.png: can't be read: No such file", "a.png: no label ('-1')",
                      "line 45 names no image", "not a file"):  # fmt: skip
            assert words in text

    @pytest.mark.parametrize("name", ["x" * 300, " " + "x" * 300, "x/" * 3000, "\0", " \0"])
    def test_a_name_that_no_file_can_have_is_one_image_less(
        self, tmp_path: Path, name: str
    ) -> None:
        """Looked at before it is opened, a name that is too long raised OSError."""
        write_image_folder(tmp_path, {"blue": 20, "red": 20})
        rows = [f"{f},{f.parent.name}" for f in sorted(tmp_path.rglob("*.png"))]
        (tmp_path / "x.csv").write_text("\n".join(["path,label", *rows, f"{name},red"]))
        data = load(tmp_path / "x.csv", max_bad_fraction=0.1)
        assert len(data.samples) == 40
        (skipped,) = data.skipped
        assert skipped.reason.startswith("can't be read: ")

    def test_too_many_missing_are_refused_by_name(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"blue": 4, "red": 4})
        for number in range(4):
            (tmp_path / "red" / f"x{number}.png").symlink_to(tmp_path / "gone")
        with pytest.raises(DataError, match=r"4 of 8 files of class 'red' .*x0.png: is a dangling"):
            load(tmp_path)

    def test_many_are_counted_and_the_first_are_named(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path, {"blue": 9, "red": 9})
        rows = [f"{f},{f.parent.name}" for f in sorted(tmp_path.rglob("*.png"))]
        rows += [f"{n}.png,none" for n in range(5000)]
        (tmp_path / "x.csv").write_text("\n".join(["path,label", *rows]))
        reporter = SilentReporter()
        load(tmp_path / "x.csv", reporter)
        assert reporter.warnings == [
            "5000 of 5018 listed are left out:",
            f"  5000, no label ('none'): {tmp_path}/0.png, {tmp_path}/1.png, {tmp_path}/2.png, ...",
        ]


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
