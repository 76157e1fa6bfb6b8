from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.imaging.preprocessing import Preprocessing
from testing.images import coloured_pixels, encode, write_image_folder
from training.data.listing import Columns
from training.data.sources import DataError, ImageFile, find_images
from training.data.splits import SplitRule
from training.loop.config import TrainConfig
from training.loop.context import load_data
from training.redeploy.config import RedeployConfig
from training.redeploy.ingest import Ingested, ingest, write_csv
from training.reporter import SilentReporter

RULE = SplitRule(val_fraction=0.2, test_fraction=0.3)
SIZE = Preprocessing(image_size=32, resize_size=32)


def ingest_from(*sources: Path, more: tuple[ImageFile, ...] = ()) -> Ingested:
    return ingest(sources, RULE, SIZE, SilentReporter(), max_bad_fraction=0.5, more=more)


def splits(ingested: Ingested) -> dict[str, str]:
    return {sample.sha256: sample.split for sample in ingested.images.samples}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images whose hashes differ: noise has no near copies."""
    root = tmp_path_factory.mktemp("collect") / "base"
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
    return root


def test_an_image_keeps_its_side_when_others_come(base: Path, tmp_path: Path) -> None:
    before = splits(ingest_from(base))
    write_image_folder(tmp_path / "new", {"red": 30, "green": 30}, first_seed=1000)
    after = splits(ingest_from(base, tmp_path / "new"))
    assert len(after) > len(before)
    assert {digest: after[digest] for digest in before} == before


def test_splits_come_about_in_the_shares_asked_for() -> None:
    counts = Counter(RULE.split(f"{number:064x}") for number in range(10_000))
    assert counts["test"] == pytest.approx(3000, abs=150)
    assert counts["val"] == pytest.approx(2000, abs=150)
    assert RULE.split("x") == SplitRule(0.2, 0.3).split("x")
    other = SplitRule(0.2, 0.3, seed=1)
    assert any(other.split(str(n)) != RULE.split(str(n)) for n in range(20))


def test_a_later_source_corrects_a_label_and_moves_nothing(base: Path, tmp_path: Path) -> None:
    wrong = sorted((base / "a").iterdir())[:3]
    lines = ["path,label", *(f"{path},b" for path in wrong)]
    (tmp_path / "corrections.csv").write_text("\n".join(lines))
    ingested = ingest_from(base, tmp_path / "corrections.csv")
    assert ingested.relabelled == 3
    assert splits(ingested) == splits(ingest_from(base))
    labels = Counter(sample.label for sample in ingested.images.samples)
    assert labels == {"a": 27, "b": 33}


def test_near_copies_do_not_lie_in_two_splits(
    base: Path, photos: list[Image.Image], tmp_path: Path
) -> None:
    """A photograph saved again in 20 qualities: 20 contents, of which each would take its split."""
    for label, photo in zip("ab", photos, strict=True):
        (tmp_path / "copies" / label).mkdir(parents=True)
        for quality in range(75, 95):
            photo.save(tmp_path / "copies" / label / f"{quality}.jpg", quality=quality)
    ingested = ingest_from(base, tmp_path / "copies")
    kept = {sample.split: [] for sample in ingested.images.samples}  # type: ignore[var-annotated]
    for sample in ingested.images.samples:
        if sample.path.suffix == ".jpg":
            kept[sample.split].append(sample.label)
    assert ingested.left_out > 5
    for label in "ab":
        assert sum(label in labels for labels in kept.values()) == 1


def test_groups_stay_together_and_named_splits_are_kept(base: Path, tmp_path: Path) -> None:
    files = sorted((base / "a").iterdir())
    group = next(str(n) for n in range(99) if RULE.split(f"group {n}") == "train")
    lines = ["path,label,group", *(f"{path},a,{group}" for path in files)]
    (tmp_path / "grouped.csv").write_text("\n".join(lines))
    ingested = ingest_from(tmp_path / "grouped.csv", base)
    assert {s.split for s in ingested.images.samples if s.label == "a"} == {"train"}
    named = tuple(ImageFile(path, "a", "test") for path in files)
    ingested = ingest_from(base, more=named)
    assert ingested.images.counts()["test"]["a"] < 30  # the first source has said where


def with_test_folder(base: Path, place: Path) -> Path:
    """`train` with the images of base, and `test` with five others of each class."""
    shutil.copytree(base, place / "train")
    write_image_folder(place / "test", {"red": 5, "green": 5}, first_seed=500)
    (place / "test" / "red").rename(place / "test" / "a")
    (place / "test" / "green").rename(place / "test" / "b")
    return place


@pytest.mark.parametrize("named", [False, True])
def test_train_and_redeploy_hold_out_the_same_images(
    base: Path, tmp_path: Path, *, named: bool
) -> None:
    """So a model of the five commands can be judged by all that redeploy holds out."""
    root = base
    if named:
        root = with_test_folder(base, tmp_path)
    config = TrainConfig(data=root, output=tmp_path / "run", val_fraction=0.2, test_fraction=0.3)
    trained = load_data(config, SilentReporter())
    seen = {s.sha256 for s in trained.samples if s.split != "test"}
    held_out = [s for s in ingest_from(root).images.samples if s.split == "test"]
    assert len(held_out) > 5
    assert not [sample for sample in held_out if sample.sha256 in seen]
    usual = (TrainConfig.model_fields, RedeployConfig.model_fields)
    for name in ("val_fraction", "test_fraction"):
        assert len({fields[name].default for fields in usual}) == 1


def test_where_only_train_and_test_are_named_val_is_taken_from_train(
    base: Path, tmp_path: Path
) -> None:
    counts = ingest_from(with_test_folder(base, tmp_path)).images.counts()
    assert counts["test"] == {"a": 5, "b": 5}
    assert 3 < sum(counts["val"].values()) < 25


def test_the_csv_says_the_same(base: Path, tmp_path: Path) -> None:
    ingested = ingest_from(base)
    write_csv(ingested.images, tmp_path / "data.csv")
    files = find_images(tmp_path / "data.csv").files
    expected = {(s.path, s.label, s.split) for s in ingested.images.samples}
    assert {(file.path, file.label, file.split) for file in files} == expected


def test_other_columns_and_names_of_splits(base: Path, tmp_path: Path) -> None:
    files = sorted(base.rglob("*.png"))
    rows = [f"{f},{f.parent.name},{('fit', 'hold')[n % 4 == 0]}" for n, f in enumerate(files)]
    (tmp_path / "x.csv").write_text("\n".join(["file,species,part", *rows]))
    columns = Columns("species", "file", "part", {"fit": "train", "hold": "test"})
    alone = ingest([tmp_path / "x.csv"], RULE, SIZE, SilentReporter(), max_bad_fraction=0.5,
                   columns=columns)  # fmt: skip
    found = {s.path: s.split for s in alone.images.samples}
    assert {found[f] for n, f in enumerate(files) if n % 4 == 0} == {"test"}
    assert {found[f] for n, f in enumerate(files) if n % 4} == {"train", "val"}
    write_image_folder(tmp_path / "new", {"red": 30, "green": 30}, first_seed=1000)
    ingested = ingest([tmp_path / "x.csv", tmp_path / "new"], RULE, SIZE, SilentReporter(),
                      max_bad_fraction=0.5, columns=columns)  # fmt: skip
    found = {s.path: s.split for s in ingested.images.samples}
    assert {found[f] for n, f in enumerate(files) if n % 4 == 0} == {"test"}
    assert {found[f] for n, f in enumerate(files) if n % 4} == {"train"}


@pytest.mark.parametrize("named", ["path", "copy"])
@pytest.mark.parametrize("order", [("train", "test"), ("test", "train")])
def test_an_image_that_a_source_names_in_two_splits_judges(
    base: Path, tmp_path: Path, named: str, order: tuple[str, str]
) -> None:
    file = next((base / "a").iterdir())
    (tmp_path / "copy.png").write_bytes(file.read_bytes())
    other = file if named == "path" else tmp_path / "copy.png"
    lines = ["path,label,split", f"{file},a,{order[0]}", f"{other},a,{order[1]}"]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert splits(ingest_from(tmp_path / "x.csv", base))[digest] == "test"


def test_two_labels_in_one_table_are_refused_unless_allowed(base: Path, tmp_path: Path) -> None:
    file = next((base / "a").iterdir())
    (tmp_path / "x.csv").write_text(f"path,label\n{file},a\n{file},b\n")
    with pytest.raises(DataError, match="has two labels for .*, 'a' and 'b'"):
        ingest_from(base, tmp_path / "x.csv")
    ingested = ingest([base, tmp_path / "x.csv"], RULE, SIZE, SilentReporter(),
                      max_bad_fraction=0.5, allow_conflicting_labels=True)  # fmt: skip
    assert [s.label for s in ingested.images.samples if s.path == file] == ["b"]


def test_what_is_left_out_is_said(base: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("path,label\na.png,-1\nb.png,\n")
    with pytest.raises(DataError, match="holds no labelled image; 2 are left out"):
        ingest_from(base, tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("path,label\na.png,-1\ngone.png,a\n")
    reporter = SilentReporter()
    ingested = ingest([base, tmp_path / "x.csv"], RULE, SIZE, reporter, max_bad_fraction=0.5)
    assert [file.path.name for file in ingested.images.skipped] == ["a.png", "gone.png"]
    assert "no label ('-1')" in reporter.warnings[1]


def test_what_is_not_enough(base: Path, tmp_path: Path) -> None:
    write_image_folder(tmp_path / "one", {"red": 20})
    with pytest.raises(DataError, match="hold 1 class, 2 are needed"):
        ingest_from(tmp_path / "one")
    write_image_folder(tmp_path / "two", {"red": 1, "green": 1})
    with pytest.raises(DataError, match="no image to train on|too few"):
        ingest_from(tmp_path / "two")
    for number in range(40):
        (tmp_path / "one" / "red" / f"bad{number}.png").write_bytes(b"x")
    (tmp_path / "one" / "blue").mkdir()
    (tmp_path / "one" / "blue" / "1.png").write_bytes(encode(coloured_pixels(1)))
    with pytest.raises(DataError, match="40 of 60 files of class 'red' are not images"):
        ingest_from(tmp_path / "one")
