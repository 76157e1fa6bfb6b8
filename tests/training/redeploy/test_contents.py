from __future__ import annotations

from pathlib import Path

import pytest

from training.data.listing import DataError
from training.redeploy.contents import read_contents, write_contents
from training.redeploy.suspects import Doubted, add_to_put_aside, put_aside

DIGEST = "0123456789abcdef" * 4


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [{"sha256": DIGEST, "file": "a,b\udcff.png"}]
    write_contents(rows, ("sha256", "file"), tmp_path / "table.csv")
    assert read_contents(tmp_path / "table.csv") == {DIGEST}


def test_other_columns_and_capitals_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(f"\ufefffile,sha256\na,{DIGEST.upper()}\nb,\n")
    assert read_contents(tmp_path / "table.csv") == {DIGEST}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "can't be read as CSV"),
        ("", r"has the columns none; it needs one called sha256"),
        ("file\na.png\n", r"has the columns file; it needs one called sha256"),
        ("sha256\na.png\n", r"sha256 is 'a\.png', it must be 64 digits"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_contents(tmp_path / "table.csv")


def test_a_table_that_people_have_saved_is_added_to(tmp_path: Path) -> None:
    (tmp_path / "put-aside.csv").write_text(
        f"\ufeffsha256,file,label,note\n{DIGEST},a.png,rose,blurred\n", encoding="utf-8"
    )
    other = DIGEST[::-1]
    row = {"sha256": other, "file": "b", "label": "rose", "suggested": "tulip", "margin": 0.5}
    add_to_put_aside(tmp_path, Doubted(1, (row,), None))
    assert put_aside(tmp_path) == {DIGEST, other}
