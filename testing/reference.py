"""What production is compared with, for a bundle that nobody trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.bundle.bundle import REFERENCE_FILE, open_bundle
from models.bundle.writer import write_manifest
from models.monitoring.reference import Reference
from serving.engine.session import checked_session
from serving.loading import session_options
from serving.offline.measured import gather, measure_files
from serving.settings import load_settings
from testing.bundles import provenance


def add_reference(path: Path, files: Sequence[Path]) -> None:
    """Have a bundle know these image files, as if they were its validation images."""
    bundle = open_bundle(path)
    session = checked_session(bundle, session_options(load_settings(), worker_index=1))
    measured = measure_files(
        [str(file) for file in files], session.judge, bundle.spec, bundle.acceptance(),
        batch_size=16, threads=1,
    )  # fmt: skip
    Reference.of_rows(gather(measured).rows, bundle.spec.labels).write(path / REFERENCE_FILE)
    write_manifest(path, provenance())
