from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from models.bundle.mapped import release_mapped
from testing.mapped import resident_kb

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of Linux's /proc")

CONTENT = bytes(range(256)) * 1024
KB = len(CONTENT) // 1024


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some weights"
    path.write_bytes(CONTENT)
    return path


def test_what_was_read_is_given_back_and_can_be_read_again(file: Path, tmp_path: Path) -> None:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == CONTENT
        assert resident_kb(file) == KB
        link = tmp_path / "link"
        link.symlink_to(file)
        release_mapped(link)
        assert resident_kb(file) == 0
        assert mapped[:] == CONTENT


def test_what_was_written_stays(file: Path) -> None:
    """A private copy isn't in the file: given back, it would be lost."""
    flags, both = mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, flags, both) as mapped:
        mapped[:4] = b"mine"
        release_mapped(file)
        assert mapped[:] == b"mine" + CONTENT[4:]


def test_another_file_and_one_that_is_not_mapped(file: Path, tmp_path: Path) -> None:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == CONTENT
        release_mapped(tmp_path / "weights")
        assert resident_kb(file) == KB
