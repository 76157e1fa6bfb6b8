"""No key, token or password lies in a file that git tracks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The forms of secrets that can be told from other text; ruff's S105 to S107 look at names.
_SECRETS = {
    "private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "AWS key id": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,})",
    "GitLab token": rb"\bglpat-[A-Za-z0-9_-]{20}",
    "Google key": rb"\bAIza[A-Za-z0-9_-]{35}",
    "Hugging Face token": rb"\bhf_[A-Za-z0-9]{34}",
    "PyPI token": rb"\bpypi-AgEI[A-Za-z0-9_-]{50,}",
    "Slack token": rb"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "API key": rb"\bsk-(?:[a-z]+-)*[A-Za-z0-9_]{32,}",
    "JSON web token": rb"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
    "password in a URL": rb"\b[a-z][a-z0-9+]*://[^\s/:@'\"{}$<>]+:[^\s/:@'\"{}$<>]{3,}@",
}
_ANY = re.compile(b"|".join(b"(?P<_%d>%s)" % pair for pair in enumerate(_SECRETS.values())))


def secret_in(content: bytes) -> str | None:
    """Which kind of secret it holds, if it holds one."""
    match = _ANY.search(content)
    if match is None:
        return None
    assert match.lastgroup is not None
    return list(_SECRETS)[int(match.lastgroup.removeprefix("_"))]


def tracked_files() -> list[Path]:
    command = ["git", "ls-files", "-z"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip("no checkout of git")
    return [ROOT / name for name in result.stdout.split("\0") if name]


def test_no_tracked_file_holds_a_secret() -> None:
    files = [path for path in tracked_files() if path.is_file()]
    assert Path(__file__) in files or len(files) > 100
    found = {str(path): kind for path in files if (kind := secret_in(path.read_bytes()))}
    assert found == {}


def test_no_tracked_file_is_named_as_keys_are() -> None:
    names = {path.name for path in tracked_files()}
    endings = (".pem", ".key", ".p12", ".pfx", ".jks", ".keystore")
    assert [name for name in names if name.endswith(endings)] == []
    assert names.isdisjoint({".env", ".netrc", ".pypirc", "id_rsa", "id_ed25519", "credentials"})


# Put together here, so that this file holds none.
@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        ("private key", "-----BEGIN " + "PRIVATE KEY-----"),
        ("private key", "-----BEGIN RSA " + "PRIVATE KEY-----"),
        ("private key", "-----BEGIN ENCRYPTED " + "PRIVATE KEY-----"),
        ("AWS key id", "AKIA" + "IOSFODNN7EXAMPLE"),
        ("GitHub token", "ghp_" + "a1" * 18),
        ("GitLab token", "glpat-" + "a1" * 10),
        ("Google key", "AIza" + "a" * 35),
        ("Hugging Face token", "hf_" + "aB" * 17),
        ("PyPI token", "pypi-AgEI" + "c" * 60),
        ("Slack token", "xoxb-" + "123456789012"),
        ("API key", "sk-" + "proj-" + "x1" * 20),
        ("JSON web token", "eyJ" + "hbGciOiJI" + "Uz.eyJ" + "zdWIiOiIxMj."),
        ("password in a URL", "https://user:" + "hunter2@example.org"),
    ],
)
def test_the_search_finds(kind: str, secret: str) -> None:
    assert secret_in(f"before {secret} after\n".encode()) == kind


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PUBLIC KEY-----",
        "--hash=sha256:" + "0a" * 32,
        "http://127.0.0.1:3000/classify",
        "s3://bucket/models",
        "task-scheduling-of-many-words-in-a-row",
    ],
)
def test_the_search_leaves_alone(text: str) -> None:
    assert secret_in(text.encode()) is None
