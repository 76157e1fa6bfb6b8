"""`vgg19 diff`: what differs between two registered models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models.bundle.bundle import Bundle
from models.bundle.metrics import class_scores
from models.registry import store


@dataclass(frozen=True)
class Difference:
    """One line: the same thing of both models."""

    what: str
    first: str
    second: str


def diff_models(first: str, second: str) -> list[Difference]:
    """Everything that differs, of two registered models.

    The numbers are those of each model's own held-out images, which may be others.

    Raises:
        StoreError, BundleError: no such model, or its files are damaged.
    """
    bundles = [store.open_stored(store.resolve(reference)) for reference in (first, second)]
    described = [dict(_describe(bundle)) for bundle in bundles]
    names = list(dict.fromkeys([*described[0], *described[1]]))
    rows = [Difference(n, described[0].get(n, ""), described[1].get(n, "")) for n in names]
    return [row for row in rows if row.first != row.second]


def _describe(bundle: Bundle) -> Iterator[tuple[str, str]]:
    provenance, metrics = bundle.manifest.provenance, bundle.metrics()
    held_out = metrics["held_out"]
    yield "created", provenance.created_at
    yield "accuracy", f"{held_out['accuracy']:.1%}"
    for name in ("macro_f1", "expected_calibration_error"):
        if name in held_out:
            yield name.replace("_", " "), f"{held_out[name]:.3f}"
    yield "held-out images", str(held_out["images"])
    for scores in class_scores(held_out):
        yield f"recall of {scores.label}", f"{scores.recall:.3f}"
    yield "classes", ", ".join(bundle.spec.labels)
    yield "data", provenance.data_fingerprint[:12]
    yield "code", provenance.git_commit or "unknown"
    yield "model file", f"{bundle.model_bytes / 1e6:.1f} MB"
    yield from _flat("config", provenance.training_config)
    yield from _flat("package", provenance.packages)
    yield from _flat("decoding", provenance.decoding)
    yield from _flat("hardware", provenance.hardware)


def _flat(kind: str, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        yield f"{kind} {name}", str(value)
