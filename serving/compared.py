"""What the service's first process has compared with a manifest, for the workers that it starts.

Reading half a gigabyte for its SHA-256 takes some 0.4 s, and once is enough as long as the
files stay what they were (`models.bundle.Bundle.check_graph` marks them).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

# Not VGG19_: it is no setting. BentoML gives its workers the environment that it has.
_VARIABLE = "_VGG19_COMPARED"


def tell_workers(marks: Sequence[str]) -> None:
    os.environ[_VARIABLE] = json.dumps(marks)


def by_parent() -> list[str]:
    """The marks; none in a process that wasn't told."""
    marks: list[str] = json.loads(os.environ.get(_VARIABLE, "[]"))
    return marks
