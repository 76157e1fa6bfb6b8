"""Label Studio's JSON: decisions as tasks with annotations, and such tasks as decisions.

The form is that of its export "JSON" and import, with one `Choices` named `label` on an `Image`
named `image` (https://labelstud.io/guide/tasks#Basic-Label-Studio-JSON-format). An image is known
by its SHA-256, which goes along in `data`; of tasks from elsewhere, by its file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from models.errors import UserError
from review.journal import Decision, Standing

# The choice that says none of the classes.
NONE = "none of these"
_FROM, _TO, _TYPE = "label", "image", "choices"
_PREFIX = re.compile(r"^[0-9a-f]{8}-")


class LabelStudioError(UserError):
    """The file isn't such JSON."""


def as_tasks(paths: Sequence[Path], images: Sequence[str], standings: Sequence[Standing]) -> bytes:
    """A task for each image, with an annotation for each decision that holds; of an image about
    which people differ there are several, as Label Studio has them.

    Args:
        paths: of the images. images: their SHA-256. standings: what was decided about each.
    """
    tasks = [
        {
            "id": place,
            "data": {"image": path.absolute().as_uri(), "sha256": image},
            "annotations": [_annotation(vote) for vote in standing.votes],
        }
        for place, (path, image, standing) in enumerate(
            zip(paths, images, standings, strict=True), start=1
        )
    ]
    return (json.dumps(tasks, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def from_tasks(content: bytes, known: Mapping[str, str], who: str) -> list[Decision]:
    """The decisions of an export, in its order: of several annotations of a task, all of them.

    Args:
        content: JSON, a list of tasks.
        known: name of a file, its path or its SHA-256 -> SHA-256 of the image; tasks about others
            are left out.
        who: the author of annotations that name nobody.

    Raises:
        LabelStudioError: it is something else.
    """
    try:
        tasks = json.loads(content)
    except (ValueError, RecursionError):
        raise LabelStudioError("this is not JSON; export from Label Studio as JSON") from None
    if not isinstance(tasks, list):
        raise LabelStudioError("this is not a list of tasks; export from Label Studio as JSON")
    decisions = []
    for place, task in enumerate(tasks, start=1):
        try:
            decisions += _decisions(task, known, who)
        except (KeyError, TypeError, AttributeError, IndexError):
            raise LabelStudioError(
                f"task {place} has no image or no choices of one label; export as JSON, not "
                "JSON-MIN"
            ) from None
    return decisions


def _annotation(decision: Decision) -> dict[str, Any]:
    choice = NONE if decision.kind == "none" else decision.label
    return {
        "id": decision.revision,
        "created_username": decision.who,
        "created_at": decision.at,
        "result": [
            {"from_name": _FROM, "to_name": _TO, "type": _TYPE, "value": {"choices": [choice]}}
        ],
    }


def _decisions(task: Any, known: Mapping[str, str], who: str) -> list[Decision]:
    data = task["data"]
    image = known.get(data.get("sha256", "")) or _known(str(data["image"]), known)
    if image is None:
        return []
    found = []
    for annotation in task.get("annotations") or ():
        if annotation.get("was_cancelled"):  # skipped there
            continue
        results = [one for one in annotation["result"] if one["type"] == _TYPE]
        if not results:
            continue
        label = str(results[0]["value"]["choices"][0])
        author = annotation.get("created_username") or annotation.get("completed_by") or who
        if isinstance(author, dict):  # a user, as newer versions write one
            author = author.get("email") or author["id"]
        is_none = label == NONE
        found.append(
            Decision(image, "none" if is_none else "label", str(author), None if is_none else label)
        )
    return found


def _known(address: str, known: Mapping[str, str]) -> str | None:
    """By the path, or by the name of the file, of a URL or a path: Label Studio serves local files
    as /data/local-files/?d=PATH, and uploads with a prefix of eight hexadecimal digits and a
    hyphen."""
    parts = urlsplit(address)
    path = unquote(parse_qs(parts.query).get("d", [parts.path])[0])
    name = path.rpartition("/")[2]
    uploaded = _PREFIX.sub("", name)
    return next((known[one] for one in (path, name, uploaded) if one in known), None)
