from __future__ import annotations

from pathlib import Path

import pytest

from models.bundle.bundle import SEEN_FILE, open_bundle
from models.bundle.manifest import read_manifest
from models.bundle.seen import Seen
from models.bundle.writer import write_manifest
from models.errors import BundleError


def test_what_a_model_has_seen_is_told_by_the_beginnings_of_digests(tiny_bundle: Path) -> None:
    assert open_bundle(tiny_bundle).seen() is None  # a bundle from before it was recorded
    trained, judged = "a" * 64, "b" * 64
    Seen([trained], [judged]).write(tiny_bundle / SEEN_FILE)
    write_manifest(tiny_bundle, read_manifest(tiny_bundle).provenance)
    seen = open_bundle(tiny_bundle).seen()
    assert seen is not None
    assert (seen.trained(trained), seen.trained(judged)) == (True, False)
    assert (seen.in_holdout(trained), seen.in_holdout(judged)) == (False, True)
    assert trained not in (tiny_bundle / SEEN_FILE).read_text()
    (tiny_bundle / SEEN_FILE).write_text('{"trained": [], "judged": []}')
    with pytest.raises(BundleError, match=r"seen.json does not match its manifest"):
        open_bundle(tiny_bundle)
