"""Completes a bundle: the manifest over the files that were put there."""

from __future__ import annotations

from pathlib import Path

from models.bundle.bundle import (
    ACCEPTANCE_FILE,
    CONTENT_FILES,
    DISTANCE_FILE,
    EXPLAIN_FILE,
    REFERENCE_FILE,
    SEEN_FILE,
    SPEC_FILE,
    WEIGHTS_FILE,
    Bundle,
)
from models.bundle.manifest import MANIFEST_FILE, Manifest, Provenance, sha256
from models.bundle.spec import ModelSpec
from models.bundle.variants import VARIANTS_FILE, Variants

_OPTIONAL_FILES = (
    WEIGHTS_FILE,
    EXPLAIN_FILE,
    DISTANCE_FILE,
    ACCEPTANCE_FILE,
    REFERENCE_FILE,
    SEEN_FILE,
    VARIANTS_FILE,
)


def write_manifest(path: Path, provenance: Provenance) -> Bundle:
    """Write the manifest over the content files in `path` and open the result."""
    names = [*CONTENT_FILES, *(name for name in _OPTIONAL_FILES if (path / name).exists())]
    if VARIANTS_FILE in names:
        variants = Variants.read(path / VARIANTS_FILE).variants
        names += [name for variant in variants for name in variant.files]
    files = {name: sha256(path / name) for name in names}
    manifest = Manifest(files=files, provenance=provenance)
    (path / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Bundle(path, manifest, ModelSpec.read(path / SPEC_FILE))
