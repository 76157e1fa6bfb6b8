from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from models.bundle.manifest import sha256


@pytest.mark.parametrize(
    ("size", "pieces"), [(0, 0), (1, 1), (4_000_000, 1), (4_000_001, 2), (12_000_000, 3)]
)
def test_a_file_is_hashed_piece_by_piece(tmp_path: Path, size: int, pieces: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    (tmp_path / "file").write_bytes(content)
    calls: list[None] = []
    found = sha256(tmp_path / "file", lambda: calls.append(None))
    assert found == hashlib.sha256(content).hexdigest() == sha256(tmp_path / "file")
    assert len(calls) == pieces
