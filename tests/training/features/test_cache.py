from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from testing.waiting import HANG_S
from training.features.cache import (
    CacheError,
    FeatureFile,
    FeatureKey,
    evict,
    find_entries,
    list_entries,
    remove,
)

KEY = FeatureKey({"weights": "a"}, count=22, shape=(3, 2), dtype="float32", block_size=4)


def values(images: range) -> NDArray[np.float32]:
    """What the features of these images are to be: no two numbers alike."""
    size = 6
    flat = np.arange(images.start * size, images.stop * size, dtype=np.float32)
    return flat.reshape(len(images), 3, 2)


def fill(file: FeatureFile, wait: bool = True) -> list[int]:
    written = []
    for block in file.claim(file.missing(), wait=wait):
        file.write(block, values(file.images(block)))
        written.append(block)
    return written


def check(root: Path) -> None:
    with FeatureFile(root, KEY) as file:
        assert file.missing() == []
        np.testing.assert_array_equal(file.array(), values(range(KEY.count)))


class TestFile:
    def test_what_is_written_is_read_back(self, tmp_path: Path) -> None:
        with FeatureFile(tmp_path, KEY) as file:
            assert file.missing() == [0, 1, 2, 3, 4, 5]
            assert file.images(5) == range(20, 22)
            assert fill(file) == [0, 1, 2, 3, 4, 5]
            array = file.array()
        np.testing.assert_array_equal(array, values(range(22)))  # also when it is closed
        assert array.dtype == np.float32
        assert not array.flags.writeable
        assert (tmp_path / KEY.digest() / "features.bin").stat().st_size == KEY.size_bytes == 528

    def test_an_interrupted_one_goes_on_where_it_stopped(self, tmp_path: Path) -> None:
        with FeatureFile(tmp_path, KEY) as file:
            for block in file.claim([0, 1, 4], wait=True):
                file.write(block, values(file.images(block)))
        with FeatureFile(tmp_path, KEY) as file:
            with pytest.raises(AssertionError, match="before they are computed"):
                file.array()
            assert fill(file) == [2, 3, 5]
        check(tmp_path)

    @pytest.mark.parametrize("place", [0, 100, 527])
    def test_a_flipped_bit_is_found_and_only_its_block_computed_again(
        self, tmp_path: Path, place: int
    ) -> None:
        with FeatureFile(tmp_path, KEY) as file:
            fill(file)
        path = tmp_path / KEY.digest() / "features.bin"
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)
        with FeatureFile(tmp_path, KEY) as file:
            assert fill(file) == [place // 96]
        check(tmp_path)

    @pytest.mark.parametrize("size", [0, 50, 200, 1000])
    def test_a_file_of_another_length(self, tmp_path: Path, size: int) -> None:
        with FeatureFile(tmp_path, KEY) as file:
            fill(file)
        os.truncate(tmp_path / KEY.digest() / "features.bin", size)
        with FeatureFile(tmp_path, KEY) as file:
            expected = [block for block in range(6) if file.images(block).stop * 24 > size]
            assert fill(file) == (expected if size < KEY.size_bytes else [])
        check(tmp_path)

    @pytest.mark.parametrize("cut", [1, 30, 66, 67])
    def test_a_journal_that_a_crash_cut_off(self, tmp_path: Path, cut: int) -> None:
        with FeatureFile(tmp_path, KEY) as file:
            fill(file)
        journal = tmp_path / KEY.digest() / "blocks.txt"
        os.truncate(journal, journal.stat().st_size - cut)
        with FeatureFile(tmp_path, KEY) as file:
            assert 5 in fill(file)
        check(tmp_path)

    def test_rubbish_in_the_journal(self, tmp_path: Path) -> None:
        folder = tmp_path / KEY.digest()
        folder.mkdir()
        (folder / "blocks.txt").write_bytes(b"0\n1 x\n-1 " + b"a" * 64 + b"\n\xff\xfe\n2 damaged\n")
        with FeatureFile(tmp_path, KEY) as file:
            assert fill(file) == [0, 1, 2, 3, 4, 5]
        check(tmp_path)

    @pytest.mark.parametrize(
        "change",
        [
            {"ingredients": {"weights": "b"}},
            {"count": 21},
            {"shape": (2, 3)},
            {"dtype": "float16"},
            {"block_size": 5},
        ],
    )
    def test_another_key_is_another_entry(self, change: dict[str, Any]) -> None:
        assert replace(KEY, **change).digest() != KEY.digest()
        assert replace(KEY).digest() == KEY.digest()


def fill_slowly(root: Path, results: Any) -> None:
    with FeatureFile(root, KEY) as file:
        written = []
        for wait in (False, True):
            for block in file.claim(file.missing(), wait=wait):
                written.append(block)
                signal.sigtimedwait([], 0.05)  # so that the others come in between
                file.write(block, values(file.images(block)))
        results.put(written)


def die_with_a_claim(root: Path) -> None:
    with FeatureFile(root, KEY) as file:
        next(file.claim([3], wait=True))
        os.kill(os.getpid(), signal.SIGKILL)


class TestProcesses:
    def test_two_at_once_share_the_work_and_do_none_twice(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        results: Any = context.Queue()
        processes = [
            context.Process(target=fill_slowly, args=(tmp_path, results)) for _ in range(3)
        ]
        for process in processes:
            process.start()
        written = [results.get(timeout=HANG_S) for _ in processes]
        for process in processes:
            process.join()
        assert sorted(block for blocks in written for block in blocks) == [0, 1, 2, 3, 4, 5]
        check(tmp_path)

    def test_a_killed_process_leaves_no_lock(self, tmp_path: Path) -> None:
        process = multiprocessing.get_context("spawn").Process(
            target=die_with_a_claim, args=(tmp_path,)
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with FeatureFile(tmp_path, KEY) as file:
            assert fill(file, wait=False) == [0, 1, 2, 3, 4, 5]
        check(tmp_path)


class TestEntries:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """Three full entries of 64 kB; `c` was used last, `a` longest ago."""
        for age, name in enumerate("cba"):
            with FeatureFile(tmp_path, self.key(name)) as file:
                for block in file.claim(file.missing(), wait=True):
                    file.write(block, np.ones((16, 1024), np.float32))
            os.utime(file.path / "key.json", (1e9 - age, 1e9 - age))
        return tmp_path

    def key(self, name: str) -> FeatureKey:
        return FeatureKey({"name": name}, 16, (1024,), "float32", 16)

    def names(self, root: Path) -> list[str]:
        return [entry.ingredients["name"] for entry in list_entries(root)]

    def test_list_says_what_is_there(self, root: Path) -> None:
        assert self.names(root) == ["c", "b", "a"]
        entry = list_entries(root)[0]
        assert (entry.count, entry.dtype, entry.progress) == (16, "float32", 1.0)
        assert entry.size_bytes == 65536
        with FeatureFile(root, KEY) as file:
            next_block = next(file.claim([2], wait=True))
            file.write(next_block, values(file.images(2)))
        assert list_entries(root)[0].progress == pytest.approx(1 / 6)
        assert list_entries(root / "none") == []

    def test_whatever_is_not_ours_is_left_alone(self, root: Path) -> None:
        (root / "notes").mkdir()
        (root / "notes" / "key.json").write_text("{}")
        (root / "broken").mkdir()
        (root / "broken" / "key.json").write_text("no json")
        assert self.names(root) == ["c", "b", "a"]

    def test_find_by_the_beginning(self, root: Path) -> None:
        (entry,) = find_entries(root, [self.key("b").digest()[:6]])
        assert entry.ingredients["name"] == "b"
        assert len(find_entries(root, [""])) == 3
        with pytest.raises(CacheError, match="nothing in .* is called zz; see 'vgg19 cache list'"):
            find_entries(root, ["zz"])

    def test_remove_leaves_what_is_mapped(self, root: Path) -> None:
        with FeatureFile(root, self.key("a")) as file:
            array = file.array()
        remove(find_entries(root, [self.key("a").digest()])[0])
        assert self.names(root) == ["c", "b"]
        assert (array == 1).all()

    @pytest.mark.parametrize(
        ("limit", "room", "left"),
        [
            (4 * 65536, True, ["c", "b", "a"]),
            (4 * 65536 - 1, True, ["c", "b"]),  # the longest unused goes
            (65536, True, []),
            (65535, False, ["c", "b", "a"]),  # for nothing, so nothing goes
        ],
    )
    def test_room_is_made_under_the_limit(
        self, root: Path, limit: int, room: bool, left: list[str]
    ) -> None:
        assert evict(root, {"new": 65536}, limit) is room
        assert self.names(root) == left

    def test_what_is_wanted_stays(self, root: Path) -> None:
        assert evict(root, {self.key("a").digest(): 65536, "new": 65536}, 2 * 65536)
        assert self.names(root) == ["a"]

    def test_the_disk_is_a_limit_too(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(root)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**30 + 100_000))
        assert evict(root, {"new": 100_000}, 10**9)
        assert self.names(root) == ["c", "b", "a"]
        assert evict(root, {"new": 150_000}, 10**9)
        assert self.names(root) == ["c", "b"]
        assert not evict(root, {"new": 500_000}, 10**9)
