"""The model as a directory: graph, spec, metrics, golden samples, card, and a manifest over all.

model.onnx      the network with normalisation and softmax inside
spec.json       `models.bundle.spec.ModelSpec`
metrics.json    what training measured
model.explain.onnx  heat maps, see `models.export.explainer_graph`; its large weights are in
                    model.onnx.data
distance.onnx   how unlike the training images an image is, see `models.export.distance_graph`
acceptance.json which answers are to be trusted, see `models.bundle.acceptance`
reference.json  histograms of the validation images, see `models.monitoring.reference`
golden.npz      inputs with the probabilities that PyTorch gave for them
README.md       the model card
model.X.onnx    variants of the graph, see `models.bundle.variants` (only if asked for)
variants.json   how far they are from it
seen.json       which images it was trained or chosen by, and which judged it, as the beginnings of
                their SHA-256
manifest.json   SHA-256 of every file above, and where the model came from
model.sig       a signature of manifest.json, see `models.bundle.signature` (only if it was signed)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.bundle.acceptance import Acceptance
from models.bundle.golden import GoldenSamples
from models.bundle.manifest import (
    MANIFEST_FILE,
    Manifest,
    check_content,
    check_plain_file,
    manifest_content,
    parse_manifest,
    stat_key,
)
from models.bundle.seen import Seen
from models.bundle.spec import ModelSpec
from models.bundle.variants import (
    VARIANTS_FILE,
    Variant,
    VariantName,
    Variants,
    variant_files,
)
from models.errors import BundleError

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"  # its large tensors, if it has any, for ONNX Runtime to map
EXPLAIN_FILE = "model.explain.onnx"  # not in bundles from before it existed
DISTANCE_FILE = "distance.onnx"  # as above
ACCEPTANCE_FILE = "acceptance.json"  # as above
REFERENCE_FILE = "reference.json"  # as above
SPEC_FILE = "spec.json"
METRICS_FILE = "metrics.json"
GOLDEN_FILE = "golden.npz"
CARD_FILE = "README.md"
SIGNATURE_FILE = "model.sig"  # in no manifest: it signs that
SEEN_FILE = "seen.json"  # not in bundles from before it existed
CONTENT_FILES = (MODEL_FILE, SPEC_FILE, METRICS_FILE, GOLDEN_FILE, CARD_FILE)
_GRAPH_PREFIX = "model."  # of every graph and its weights

# Of EXPLAIN_FILE, besides the images: a class for each, and what comes of them.
EXPLAINED_INPUT, HEAT_MAP_OUTPUT = "target", "heatmap"

# What FC2 gives, besides the probabilities, and what DISTANCE_FILE makes of it.
FEATURES_OUTPUT, DISTANCE_OUTPUT = "features", "distance"


class Bundle:
    """A bundle on disk whose files have been checked against its manifest; of one from
    `inspect_bundle`, its graphs only where `check_graph` was called."""

    def __init__(self, path: Path, manifest: Manifest, spec: ModelSpec) -> None:
        self.path = path
        self.manifest = manifest
        self.spec = spec
        self._compared: dict[str, tuple[int, ...]] = {}  # keys of large files, by name

    @property
    def model_path(self) -> Path:
        return self.path / MODEL_FILE

    def graph_path(self, variant: Variant | None) -> Path:
        """The file to load for a variant (None: float32)."""
        return self.path / _files_to_run(variant)[0]

    @property
    def size_bytes(self) -> int:
        """Size of all files: the model with its variants, heat maps, distances and card."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    @property
    def model_bytes(self) -> int:
        """Size of the float32 graph with its weights."""
        return graph_bytes(self.model_path)

    def check_graph(self, variant: Variant | None) -> None:
        """Compare the files that are read to run a variant (None: float32) with the manifest; of
        weights beside an ONNX graph only that they are listed, see `check_weights`.

        Raises:
            BundleError: one is missing, lies elsewhere, differs, or isn't listed.
        """
        weights = self._weights(variant)
        if weights is not None:
            self._listed(weights)
        for name in _files_to_run(variant):
            self._check_graph_file(name)

    def check_weights(
        self, variant: Variant | None, between: Callable[[], None] | None = None
    ) -> None:
        """Compare the weights beside a variant's ONNX graph, if there are any, with the manifest:
        0.4 s for half a gigabyte. They are plain numbers, so they may be loaded meanwhile, but
        nobody must get an answer that was computed from them before this has returned.

        Args:
            between: see `sha256`.

        Raises:
            BundleError: see `check_graph`.
        """
        weights = self._weights(variant)
        if weights is not None:
            self._check_graph_file(weights, between or (lambda: None))

    def _weights(self, variant: Variant | None) -> str | None:
        weights = weights_beside(self.path / _files_to_run(variant)[0])
        return weights.name if weights.exists() else None

    @property
    def explain_path(self) -> Path | None:
        """The graph of heat maps; an older bundle has none."""
        return self.path / EXPLAIN_FILE if EXPLAIN_FILE in self.manifest.files else None

    @property
    def distance_path(self) -> Path | None:
        """The graph of distances; an older bundle has none."""
        return self.path / DISTANCE_FILE if DISTANCE_FILE in self.manifest.files else None

    def acceptance(self) -> Acceptance | None:
        """Which answers are to be trusted; an older bundle doesn't say."""
        if ACCEPTANCE_FILE not in self.manifest.files:
            return None
        return Acceptance.read(self.path / ACCEPTANCE_FILE)

    def check_explainer(self) -> None:
        """As `check_graph`, for the files that heat maps are computed from.

        Raises:
            BundleError: see `check_graph`.
        """
        self._check_graph_file(EXPLAIN_FILE)
        self.check_weights(None)  # it has none of its own

    def _check_graph_file(self, name: str, between: Callable[[], None] = lambda: None) -> None:
        """Read it for its SHA-256, unless that was done and it didn't change since."""
        expected = self._listed(name)
        key = stat_key(self.path / name)  # before it is read: it may change meanwhile
        if self._compared.get(name) != key:
            check_content(self.path / name, expected, between)
            self._compared[name] = key

    def _listed(self, name: str) -> str:
        """The SHA-256 that a file should have."""
        expected = self.manifest.files.get(name)
        if expected is None:
            raise BundleError(
                f"{self.path / MANIFEST_FILE} doesn't list {name}, which the model would be read "
                "from; export the run again"
            )
        check_plain_file(self.path, name)
        return expected

    def golden(self) -> GoldenSamples:
        return GoldenSamples.read(self.path / GOLDEN_FILE)

    def variants(self) -> Variants:
        """The variants beside model.onnx; a bundle may have none."""
        if VARIANTS_FILE not in self.manifest.files:
            return Variants()
        return Variants.read(self.path / VARIANTS_FILE)

    def metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = json.loads((self.path / METRICS_FILE).read_bytes())
        return metrics

    def seen(self) -> Seen | None:
        """Which images the model knows; None if that wasn't recorded."""
        if SEEN_FILE not in self.manifest.files:
            return None
        content = json.loads((self.path / SEEN_FILE).read_bytes())
        return Seen(content["trained"], content["judged"])


# Raises a UserError if it objects to a bundle's directory and the content of its manifest.
CheckManifest = Callable[[Path, bytes], None]


def open_bundle(path: Path, check: CheckManifest | None = None) -> Bundle:
    """Open a bundle after comparing every file with the manifest.

    Reads every byte once: about half a second for the 575 MB of a 224 px model.

    Args:
        check: called before anything else with the very bytes that the manifest is then read
            from, so that nobody can change them in between.

    Raises:
        BundleError: no bundle there, or a file is missing, lies elsewhere, or differs from the
            manifest.
    """
    bundle = inspect_bundle(path, check)
    for name, expected in bundle.manifest.files.items():
        if _is_graph(name):
            check_content(path / name, expected)
    return bundle


def inspect_bundle(path: Path, check: CheckManifest | None = None) -> Bundle:
    """Open a bundle whose graphs are not compared with the manifest: for who will run one of them
    (`serving.engine.session.checked_session`), since a bundle may hold half a gigabyte for each
    variant.

    Args:
        check: see `open_bundle`.

    Raises:
        BundleError: see `open_bundle`.
    """
    content = manifest_content(path)
    if check is not None:
        check(path, content)
    manifest = parse_manifest(path, content)
    unlisted = sorted(set(CONTENT_FILES) - set(manifest.files))
    if unlisted:
        raise BundleError(f"{path / MANIFEST_FILE} doesn't list {', '.join(unlisted)}")
    for name, expected in manifest.files.items():
        check_plain_file(path, name)
        if not _is_graph(name):
            check_content(path / name, expected)
    return Bundle(path, manifest, ModelSpec.read(path / SPEC_FILE))


def _is_graph(name: str) -> bool:
    """A graph, or weights of one: what is large."""
    return name.startswith(_GRAPH_PREFIX)


def signature_of(path: Path) -> Path | None:
    """The signature that lies in the bundle at `path`, unchecked; None if there is none.

    Raises:
        BundleError: it is a link, or no file.
    """
    if not os.path.lexists(path / SIGNATURE_FILE):
        return None
    check_plain_file(path, SIGNATURE_FILE)
    return path / SIGNATURE_FILE


def weights_beside(graph: Path) -> Path:
    """Where an ONNX file's large tensors are, if it has any: `WEIGHTS_FILE` of `MODEL_FILE`."""
    return graph.with_name(f"{graph.name}.data")


def graph_bytes(path: Path) -> int:
    """Size of an ONNX file with the weights beside it."""
    weights = weights_beside(path)
    return path.stat().st_size + (weights.stat().st_size if weights.exists() else 0)


def graph_files(name: VariantName | None) -> tuple[str, ...]:
    """What is read to run a variant (None: float32); the first is the one to load."""
    return (name and variant_files(name)) or (MODEL_FILE,)


def _files_to_run(variant: Variant | None) -> tuple[str, ...]:
    return graph_files(None if variant is None else variant.name)
