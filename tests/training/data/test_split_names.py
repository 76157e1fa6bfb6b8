from __future__ import annotations

from pathlib import Path

import pytest

from training.data.listing import DataError, Split
from training.data.split_names import KNOWN_NAMES, find_split_column, split_of, strictest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("split", "names"), KNOWN_NAMES.items())
def test_known_names_in_every_case_and_spelling(split: Split, names: tuple[str, ...]) -> None:
    for name in names:
        for spelling in (
            name, name.upper(), name.title(), f" {name} ", f"{name}_set", f"{name}-set",
            f"{name}set", f"{name} data", f"{name}_images", f"images.{name}", f"{name}2017",
            f"{name}_1",
        ):  # fmt: skip
            assert split_of(spelling, {}) == split, spelling


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("training_set", "train"),
        ("Training Images", "train"),
        ("hold-out", "test"),
        ("Held Out", "test"),
        ("HOLDOUT_SET", "test"),
        ("\uff54\uff45\uff53\uff54", "test"),
        ("dev2", "val"),
        ("val.split", "val"),
    ],
)
def test_spellings_that_people_use(name: str, split: Split) -> None:
    assert split_of(name, {}) == split


@pytest.mark.parametrize(
    "name", ["", "extra", "unsupervised", "trainval", "cats", "pretrain", "contest", "train/test",
             "0", "unlabelled", "data", "invalid", "fold"],
)  # fmt: skip
def test_names_that_are_not_known(name: str) -> None:
    assert split_of(name, {}) is None


def test_what_the_user_says_wins() -> None:
    given = {"Extra": "ignore", "test": "class", "1": "val"}
    assert split_of("extra ", given) == "ignore"  # type: ignore[arg-type]
    assert split_of("TEST", given) == "class"  # type: ignore[arg-type]
    assert split_of("1", given) == "val"  # type: ignore[arg-type]


def test_the_page_lists_every_name() -> None:
    page = " ".join((ROOT / "docs" / "training.md").read_text().split())
    for split, names in KNOWN_NAMES.items():
        assert f"| `{split}` | {', '.join(names)} |" in page


def test_of_two_splits_the_one_that_judges_more_is_the_strictest() -> None:
    assert strictest("train", "test") == strictest("test", "val") == "test"
    assert strictest("val", "train") == "val"
    assert strictest(None, "train") == "train"
    assert strictest(None, None) is None


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"split": ["a", "b"]}, "split"),  # unknown names are refused where they are read
        ({" Split": ["train"]}, " Split"),
        ({"SPLITS": ["train"]}, "SPLITS"),
        ({"usage": ["Train", "TEST"]}, "usage"),
        ({"kind": ["training", "holdout"]}, "kind"),
        ({"subset": ["train", "extra"]}, "subset"),
        ({"kind": ["training"]}, None),
        ({"kind": ["test", "other"]}, None),
        ({"set": ["a", "b"], "fold": ["1", "2"]}, None),
        ({"split": ["train"], "subset": ["train", "test"]}, "split"),
        ({}, None),
    ],
)
def test_the_column_of_splits_is_found(columns: dict[str, list[str]], found: str | None) -> None:
    assert find_split_column(list(columns), columns.__getitem__, {}) == found


def test_two_columns_of_splits_are_refused() -> None:
    columns = {"usage": ["train", "test"], "phase": ["val", "train"]}
    with pytest.raises(DataError, match="usage and phase both name splits; choose one with split_"):
        find_split_column(list(columns), columns.__getitem__, {})
