"""What this machine gives to this process."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CPU_INFO = Path("/proc/cpuinfo")
# Instructions that decide which graph and which engine is the fastest, as Linux names them.
_DECISIVE = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
    "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip


def processor_kind() -> str:
    """The architecture and the instructions that decide how fast a graph runs, such as
    "x86_64 avx2 avx512f avx512_vnni"; where Linux doesn't tell, the architecture alone."""
    has: set[str] = set()
    for line in _read(_CPU_INFO).splitlines():
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):  # x86, Arm
            has.update(values.split())
    return " ".join([platform.machine(), *(name for name in _DECISIVE if name in has)])


def processor_model() -> str:
    """Who made this processor and which one it is, such as "AuthenticAMD 26/2, AMD EPYC" (family
    and model of x86), "0x41 0xd40" (implementer and part of Arm); where Linux doesn't tell, what
    Python knows of it, perhaps nothing."""
    lines = _read(_CPU_INFO).partition("\n\n")[0].splitlines()
    fields = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if "vendor_id" in fields:
        vendor, family, model, name = (
            fields.get(key, "?") for key in ("vendor_id", "cpu family", "model", "model name")
        )
        return f"{vendor} {family}/{model}, {name}"
    if "CPU implementer" in fields:
        return f"{fields['CPU implementer']} {fields.get('CPU part', '?')}"
    return platform.processor()


def sums_int8_exactly() -> bool:
    """Whether sums of products of 8-bit numbers can't overflow: on Arm, and on x86 with VNNI."""
    architecture, *has = processor_kind().split()
    return architecture not in ("x86_64", "AMD64") or bool({"avx512_vnni", "avx_vnni"} & set(has))


def cpu_count() -> int:
    """The cores that this process may use: by its affinity, and by its container's limit."""
    affine = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, math.ceil(min(affine, _cgroup_limit())))


def _cgroup_limit() -> float:
    """Cores by the CPU quota of this process's control groups (version 2, then 1); inf: none.

    `cpu.max` holds "quota period", both in microseconds, or "max period"; version 1 has a file for
    each, and -1 for no quota. Source: the kernel's documentation of cgroups.
    """
    limits = [math.inf]
    for line in _read(_OWN_CGROUP).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folders = _upwards(_CGROUPS, path)
            limits += [_quota(*_read(folder / "cpu.max").split()) for folder in folders]
        elif "cpu" in controllers.split(","):
            limits += [
                _quota(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
                for folder in _upwards(_CGROUPS / "cpu", path)
            ]
    return min(limits)


def _upwards(root: Path, path: str) -> list[Path]:
    """The group's folder and those above it. In a container the path may lead out of what is
    mounted; the root is the container's own group then."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _quota(quota: str = "", period: str = "", *_: str) -> float:
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or no such file
        return math.inf
    return cores if cores > 0 else math.inf


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
