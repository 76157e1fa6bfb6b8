from __future__ import annotations

import os
from typing import NoReturn

import pytest

from cli import launch
from testing.ports import free_port


class _Became(Exception):
    """Another process, in place of this one; with these variables."""


def become(path: str, command: list[str], variables: dict[str, str]) -> NoReturn:
    raise _Became(variables)


@pytest.mark.parametrize(
    ("own", "expected"), [(None, "glibc.malloc.hugetlb=1"), ("glibc.malloc.hugetlb=0",) * 2]
)
def test_the_service_has_large_memory_in_huge_pages_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, own: str | None, expected: str
) -> None:
    monkeypatch.setattr(os, "execve", become)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if own is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", own)
    with pytest.raises(_Became) as became:
        launch.serve_with_bentoml("127.0.0.1", free_port(), free_port(), "production")
    assert became.value.args[0]["GLIBC_TUNABLES"] == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:8080"),
        ("192.0.2.7", "http://192.0.2.7:8080"),
    ],
)
def test_the_page_has_an_address_that_a_browser_opens(host: str, expected: str) -> None:
    assert launch.page_address(host, 8080) == expected
