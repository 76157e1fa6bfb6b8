"""One step of the check, as a process: `python -m benchmarks.gpu.step NAME FOLDER [--rehearse]`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from benchmarks.gpu.place import FULL, REHEARSAL, Place


def main() -> None:
    name, folder = sys.argv[1:3]
    scale = REHEARSAL if "--rehearse" in sys.argv else FULL
    import_module(f"benchmarks.gpu.{name}").run(Place(Path(folder).resolve(), scale, name))


if __name__ == "__main__":
    main()
