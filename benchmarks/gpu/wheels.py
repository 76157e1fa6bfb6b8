"""Fetch what `make gpu-check` needs on a machine that has PyTorch and no network.

    python -m benchmarks.gpu.wheels FOLDER [--python 3.12] [--installed FILE] [--part-mb 50]

FILE: what `python -m pip list --format freeze` prints on that machine; what it names is left out,
whatever its version is, but for ONNX Runtime, which must be the one for GPUs, and for the packages
whose exact release matters. CUDA and cuDNN come with PyTorch. Wheels that are larger than a part
are cut; benchmarks/gpu/install.sh joins them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parents[2]
_SERVICE_LOCK, _LOCK = _ROOT / "deploy" / "requirements-gpu.lock", _ROOT / "requirements.lock"
# Of the training's and the tests' packages, those that a machine for PyTorch rarely has.
_ALSO = (
    "cffi",
    "cryptography",
    "imagehash",
    "pycparser",
    "pytest-asyncio",
    "pytest-timeout",
    "pywavelets",
)
# They come with PyTorch, or are built for its NumPy.
_NEVER = re.compile(r"nvidia-(cu|nv|nccl)|torch|triton|numpy$")
# pillow and cykooz-resizer share a layout of memory; protobuf and grpcio fit the generated code.
_EXACTLY = ("onnxruntime-gpu", "pillow", "cykooz-resizer", "protobuf", "grpcio")
# pip matches these names as they are; a wheel may carry any.
_PLATFORMS = tuple(
    f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 26, 24, 17, 5)
)


def main() -> None:
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    installed = _installed(options.installed) if options.installed else set()
    wanted = list(wanted_packages(options.python, installed))
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]
    command += [
        "--implementation",
        "cp",
        "--python-version",
        options.python,
        "--dest",
        str(options.folder),
    ]
    for platform in (*_PLATFORMS, "manylinux2014_x86_64", "manylinux1_x86_64"):
        command += ["--platform", platform]
    subprocess.run([*command, *wanted], check=True)
    parts = [
        part
        for wheel in options.folder.glob("*.whl")
        for part in cut(wheel, options.part_mb * 10**6)
    ]
    size = sum(file.stat().st_size for file in options.folder.iterdir())
    print(f"{len(wanted)} packages, {size / 1e6:.0f} MB in {options.folder}, {len(parts)} parts")


def wanted_packages(python: str, installed: set[str]) -> Iterator[str]:
    """NAME==VERSION of what the service needs by its lock, and of `_ALSO`, as the whole lock has it
    for that Python."""
    pins = {name: pin for name, pin in _pins(_LOCK, python) if name in _ALSO}
    pins |= dict(_pins(_SERVICE_LOCK, python))
    for name, pin in sorted(pins.items()):
        if not _NEVER.match(name) and (name in _EXACTLY or name not in installed):
            yield pin


def cut(wheel: Path, part_bytes: int) -> list[Path]:
    """Replace a file that is larger than a part by its parts, WHEEL.part00 and so on."""
    size = wheel.stat().st_size
    if size <= part_bytes:
        return []
    parts = []
    with wheel.open("rb") as file:
        for number in range(-(-size // part_bytes)):
            part = wheel.with_name(f"{wheel.name}.part{number:02}")
            part.write_bytes(file.read(part_bytes))
            parts.append(part)
    wheel.unlink()
    return parts


def _pins(lock: Path, python: str) -> Iterator[tuple[str, str]]:
    environment = {
        "python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux",
        "platform_machine": "x86_64", "platform_python_implementation": "CPython",
        "implementation_name": "cpython", "platform_system": "Linux", "os_name": "posix",
    }  # fmt: skip
    for line in lock.read_text(encoding="utf-8").splitlines():
        if re.match(r"[a-z0-9]", line):
            requirement = Requirement(line.removesuffix("\\").strip())
            if requirement.marker is None or requirement.marker.evaluate(environment):
                yield (
                    canonicalize_name(requirement.name),
                    f"{requirement.name}{requirement.specifier}",
                )


def _installed(listing: Path) -> set[str]:
    return set(_names(listing.read_text(encoding="utf-8").splitlines()))


def _names(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if "==" in line:
            yield canonicalize_name(line.partition("==")[0])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fetch what make gpu-check needs elsewhere.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version there, default: %(default)s")
    parser.add_argument("--installed", type=Path, help="what pip lists there")
    parser.add_argument("--part-mb", type=int, default=50, help="default: %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    main()
