from __future__ import annotations

import os
from pathlib import Path

import pytest

from models import machine
from models.machine import cpu_count, processor_kind, processor_model, sums_int8_exactly


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 cores whose control groups a test writes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OWN_CGROUP", tmp_path / "self")
    return tmp_path


def group(host: Path, path: str, **files: str) -> None:
    folder = host / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("cpu_", "cpu.")).write_text(content + "\n")


def test_without_control_groups_the_affinity_counts(host: Path) -> None:
    assert cpu_count() == 16


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("400000 100000", 4), ("150000 100000", 2), ("20000 100000", 1), ("max 100000", 16)],
)
def test_version_2(host: Path, quota: str, cores: int) -> None:
    (host / "self").write_text("0::/\n")
    group(host, "", cpu_max=quota)
    assert cpu_count() == cores


def test_version_2_a_parents_limit_holds_for_its_children(host: Path) -> None:
    (host / "self").write_text("0::/pods/one/main\n")
    group(host, "pods/one/main", cpu_max="800000 100000")
    group(host, "pods/one", cpu_max="300000 100000")
    group(host, "pods", cpu_max="max 100000")
    assert cpu_count() == 3


@pytest.mark.parametrize(("quota", "cores"), [("250000", 3), ("-1", 16)])
def test_version_1(host: Path, quota: str, cores: int) -> None:
    (host / "self").write_text("12:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n")
    group(host, "cpu", cpu_cfs_quota_us=quota, cpu_cfs_period_us="100000")
    assert cpu_count() == cores


def test_rubbish_is_no_limit(host: Path) -> None:
    (host / "self").write_text("0::/../..\n")
    group(host, "", cpu_max="many 0")
    assert cpu_count() == 16
    group(host, "", cpu_max="100000 0")
    assert cpu_count() == 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni hypervisor\n" * 2, " avx2 avx512f avx512_vnni"),
        ("Features\t: fp asimd asimddp i8mm\n", " asimddp i8mm"),
        ("model name : something\n", ""),
    ],
)
def test_processor_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr("platform.machine", lambda: "here")
    assert processor_kind() == "here" + expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            """processor : 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2
model name\t: AMD EPYC\n\nprocessor : 1\nvendor_id\t: other\n""",
            "AuthenticAMD 26/2, AMD EPYC",
        ),
        ("vendor_id : GenuineIntel\n", "GenuineIntel ?/?, ?"),
        ("processor : 0\nCPU implementer : 0x41\nCPU part : 0xd40\n", "0x41 0xd40"),
        ("", "what Python knows"),
    ],
)
def test_processor_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr("platform.processor", lambda: "what Python knows")
    assert processor_model() == expected


@pytest.mark.parametrize(
    ("architecture", "flags", "exactly"),
    [
        ("x86_64", "avx2 avx512f", False),
        ("x86_64", "avx2 avx512f avx512_vnni", True),
        ("x86_64", "avx2 avx_vnni", True),
        ("aarch64", "asimd", True),
    ],
)
def test_where_sums_of_int8_overflow(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    flags: str,
    exactly: bool,
) -> None:
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr("platform.machine", lambda: architecture)
    assert sums_int8_exactly() == exactly
