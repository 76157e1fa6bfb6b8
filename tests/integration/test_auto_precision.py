"""VGG19_PRECISION=auto in a real service: what `vgg19 export --variant auto` recorded is what runs,
and on another kind of processor what is measured there before the first start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models.bundle.variants import VARIANTS_FILE, Variants
from models.bundle.writer import write_manifest
from models.export import onnx_variants
from models.machine import processor_kind
from serving.engine.measured import Fastest
from serving.engine.providers import engine_name
from testing import patient
from testing.bundles import provenance
from testing.images import encode
from testing.server import put_into_production, serve
from testing.small_vgg import pixels
from tests.integration.small_export import export_small

MEASURING = "measuring which graph is the fastest here"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle by `--variant auto`, without its manifest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_variants, "_PAUSE_S", 0)
        return export_small(tmp_path_factory.mktemp("auto"), "auto", others=60)


def in_production(exported: Path, place: Path, record: Variants) -> Path:
    bundle = Path(shutil.copytree(exported, place / "bundle"))
    record.write(bundle / VARIANTS_FILE)
    write_manifest(bundle, provenance())
    return put_into_production(bundle)


@contextmanager
def served(home: Path, place: Path, log: str) -> Iterator[tuple[str | None, str]]:
    """The variant that answers, None is float32, and its engine; an image is answered as well."""
    settings = {"VGG19_PRECISION": "auto", "XDG_CACHE_HOME": str(place / "cache")}
    with (
        serve(home, place / log, **settings) as server,
        patient.client(base_url=server.url) as client,
    ):
        answer = client.post("/classify", files={"image": encode(pixels(1, 300)[0])})
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = client.get("/model").json()
        variant = None if told["variant"] == "float32" else told["variant"]
        yield variant, engine_name(told["provider"])


def test_what_the_export_found_to_be_the_fastest_runs(exported: Path, tmp_path: Path) -> None:
    record = Variants.read(exported / VARIANTS_FILE)
    assert record.processor == processor_kind()
    with served(in_production(exported, tmp_path, record), tmp_path, "log") as found:
        assert found == (record.recommended, record.engine)
    assert MEASURING not in (tmp_path / "log").read_text()


def test_what_it_recorded_runs_though_it_is_not_the_fastest(exported: Path, tmp_path: Path) -> None:
    """Nothing is measured where the processor is of the same kind."""
    record = Variants.read(exported / VARIANTS_FILE)
    record = record.model_copy(update={"recommended": "fc8", "engine": "onnxruntime"})
    with served(in_production(exported, tmp_path, record), tmp_path, "log") as found:
        assert found == ("fc8", "onnxruntime")


def test_on_another_kind_of_processor_it_is_measured_once(exported: Path, tmp_path: Path) -> None:
    record = Variants.read(exported / VARIANTS_FILE)
    record = record.model_copy(update={"processor": "x86_64 sse2"})
    home = in_production(exported, tmp_path, record)
    with served(home, tmp_path, "first") as found:
        (kept,) = (tmp_path / "cache").rglob("*.json")
        measured = Fastest.model_validate_json(kept.read_bytes())
        assert found == (measured.variant, measured.engine)
    assert "x86_64 sse2" in (tmp_path / "first").read_text()
    assert MEASURING in (tmp_path / "first").read_text()

    # Another answer than it found, so that it shows which one is followed.
    other = None if measured.variant == "fc8" else "fc8"
    content = {"variant": other, "engine": "onnxruntime", "why": "kept"}
    kept.write_text(json.dumps(content))
    with served(home, tmp_path, "second") as found:
        assert found == (other, "onnxruntime")
    assert MEASURING not in (tmp_path / "second").read_text()
    assert kept.read_text() == json.dumps(content)
