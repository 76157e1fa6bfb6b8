"""In which arithmetic OpenVINO runs a variant; nothing is loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from models.bundle.variants import Variant, VariantName
from serving.engine import load
from serving.engine.choice import Choice
from serving.engine.load import load_engine
from serving.engine.options import SessionOptions
from serving.engine.providers import CPU


def variant(name: VariantName, *, rest_in_bf16: bool = False) -> Variant:
    return Variant(
        name=name, size_bytes=1, images=200, top1_agreement=1.0,
        max_probability_difference=0.0, tolerance=0.2, rest_in_bf16=rest_in_bf16,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "has_bf16", "expected"),
    [
        (None, True, False),
        (variant("bf16"), True, True),
        (variant("int8"), True, False),  # judged where there is none, or by an older export
        (variant("int8", rest_in_bf16=True), True, True),
        (variant("int8", rest_in_bf16=True), False, False),
    ],
)
def test_bfloat16_is_computed_in_where_it_was_judged_and_there_is_any(
    monkeypatch: pytest.MonkeyPatch, one: Variant | None, has_bf16: bool, expected: bool
) -> None:
    asked: list[bool] = []

    def graph(path: Path, wanted: list[str], threads: int, *, bf16: bool) -> Any:
        asked.append(bf16)
        return SimpleNamespace(provider="OpenVINO")

    bundle: Any = SimpleNamespace(
        graph_path=lambda variant: Path("model.onnx"),
        spec=SimpleNamespace(output_name="probabilities"),
        distance_path=None,
    )
    monkeypatch.setattr(load, "check_graph", lambda path: None)
    monkeypatch.setattr(load, "computes_in_bf16", lambda: has_bf16)
    monkeypatch.setattr(load, "OpenVinoGraph", graph)
    load_engine(bundle, Choice(one, "openvino"), SessionOptions([(CPU, {})], None, 1, 8), 8)
    assert asked == [expected]


def test_int8_in_float32_is_written_as_before() -> None:
    """A service from before refuses a key that it doesn't know."""
    assert "rest_in_bf16" not in variant("int8").model_dump_json()
    assert "rest_in_bf16" in variant("int8", rest_in_bf16=True).model_dump_json()
