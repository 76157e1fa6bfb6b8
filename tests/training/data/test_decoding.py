from __future__ import annotations

from importlib.metadata import version

import pytest
from PIL import features

from models.imaging import resampling
from training.data.decoding import decoding


def test_names_rule_resampler_and_codecs() -> None:
    found = decoding()
    assert found["rule"] == "1"
    assert found["jpg"] == features.version("jpg")
    assert set(found) <= {"rule", "resampler", "libjpeg_turbo", "jpg", "webp"}


def test_the_resampler_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "simd", object())
    assert decoding()["resampler"] == f"cykooz-resizer {version('cykooz-resizer')}"
    monkeypatch.setattr(resampling, "simd", None)
    assert decoding()["resampler"] == f"pillow {version('pillow')}"


def test_a_codec_that_pillow_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "version", {"jpg": "6.2"}.get)
    assert set(decoding()) == {"rule", "resampler", "jpg"}
