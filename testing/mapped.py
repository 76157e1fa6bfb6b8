"""What Linux says of the files that this process has mapped."""

from __future__ import annotations

import re
from pathlib import Path

_FIRST_LINE = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")


def resident_kb(file: Path) -> int | None:
    """How much of a file's mappings is in this process's memory; None: it isn't mapped."""
    found: int | None = None
    is_its = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if _FIRST_LINE.match(line):
            is_its = line.endswith(str(file.resolve()))
        elif is_its and line.startswith("Rss:"):
            found = (found or 0) + int(line.split()[1])
    return found
