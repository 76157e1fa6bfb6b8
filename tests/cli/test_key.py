from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from serving.admission.api_keys import Keys
from serving.settings import load_settings
from testing.commands import run_command


def test_a_key_and_what_the_service_is_told_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each another one, written nowhere, and taken as it is printed."""
    made = set()
    for _ in range(3):
        result = run_command("vgg19", "key", cwd=tmp_path, home=tmp_path / "home")
        assert result.returncode == 0, result.stderr
        key, digest = re.findall(r"^(?:key|sha256) +([0-9a-f]{64})$", result.stdout, re.MULTILINE)
        assert digest == hashlib.sha256(key.encode()).hexdigest()
        assert result.stdout.count(key) == result.stdout.count(digest) == 1
        assert "not shown again" in result.stdout
        made |= {key, digest}
    assert len(made) == 6
    assert list(tmp_path.rglob("*")) == []
    monkeypatch.setenv("VGG19_API_KEYS", digest)
    digests = load_settings().api_keys.get_secret_value()
    assert Keys([digests]).check(f"Bearer {key}") == digest
