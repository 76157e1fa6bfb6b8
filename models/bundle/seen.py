"""Which images a model has seen: what it was trained on, and what it was judged on."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

# Digits of a SHA-256 that tell images apart: at a million images, two share 16 once in 37 million.
_SEEN_DIGITS = 16


class Seen:
    """The images that a model knows, by the SHA-256 of their files.

    Args:
        trained: those it was trained on, or chosen and calibrated by.
        holdout: those it was judged on.
    """

    def __init__(self, trained: Collection[str], holdout: Collection[str]) -> None:
        self._trained = frozenset(digest[:_SEEN_DIGITS] for digest in trained)
        self._holdout_hashes = frozenset(digest[:_SEEN_DIGITS] for digest in holdout)

    def trained(self, sha256: str) -> bool:
        return sha256[:_SEEN_DIGITS] in self._trained

    def in_holdout(self, sha256: str) -> bool:
        return sha256[:_SEEN_DIGITS] in self._holdout_hashes

    def write(self, path: Path) -> None:
        content = {"trained": sorted(self._trained), "judged": sorted(self._holdout_hashes)}
        path.write_text(json.dumps(content), encoding="utf-8")
