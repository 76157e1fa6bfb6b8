"""What the numbers were measured on."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

from models.machine import cpu_count


def describe_machine() -> dict[str, object]:
    return {
        "cpu": _cpu_name(),
        "cores": cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "onnxruntime-gpu", "pillow")},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
