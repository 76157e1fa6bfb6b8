"""The captured images as items of a review."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from models.captured import CapturedImage, captured_images
from review.pool import Item, captured_item

logger = logging.getLogger(__name__)

# Images without a label at once, the least certain of all that there are. What FC2 gives for them
# is 16 MB, and a person doesn't label more before the next look.
MOST_WAITING = 2000


class CapturedItems:
    """Looks at a location again and again; what it has read once it doesn't read a second time. Of
    one thread.

    Args:
        url: a directory, or a URL that fsspec knows.
        fetched_to: directory of what is fetched from a URL; what is no longer there is removed.
    """

    def __init__(self, url: str, fetched_to: Path) -> None:
        self._url = url
        self._fetched_to = fetched_to
        self._known: dict[str, CapturedImage] = {}
        self._digests: dict[str, str] = {}

    def look(self) -> list[Item]:
        """Those that have a label, and those without about which the model that captured them was
        least certain, once each.

        Raises:
            CaptureError: the location can't be read.
        """
        images = captured_images(
            self._url, logger.warning, known=self._known, fetched_to=self._fetched_to
        )
        self._known = {image.stem: image for image in images}
        self._remove_old()
        found: dict[str, Item] = {}
        for image in images:
            digest = self._digest(image)
            if digest is not None:
                found.setdefault(digest, captured_item(image, digest))
        labelled = [item for item in found.values() if item.given is not None]
        waiting = [item for item in found.values() if item.given is None]
        return labelled + sorted(waiting, key=lambda item: -item.doubt)[:MOST_WAITING]

    def _digest(self, image: CapturedImage) -> str | None:
        """None: it was removed meanwhile, to make room."""
        if image.stem not in self._digests:
            try:
                content = image.path.read_bytes()
            except OSError:
                return None
            self._digests[image.stem] = hashlib.sha256(content).hexdigest()
        return self._digests[image.stem]

    def _remove_old(self) -> None:
        for stem in self._digests.keys() - self._known.keys():
            del self._digests[stem]
        if self._fetched_to.is_dir():
            for file in self._fetched_to.glob("*.img"):
                if file.stem not in self._known:
                    file.unlink(missing_ok=True)
