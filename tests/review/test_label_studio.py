from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from review.journal import Decision, Standing
from review.label_studio import LabelStudioError, as_tasks, from_tasks

IMAGE = "a" * 64
KNOWN = {"cat.png": IMAGE, "/data/cat.png": IMAGE, IMAGE: IMAGE}


def task(image: str, **annotation: Any) -> dict[str, Any]:
    """As Label Studio 1.x exports it."""
    result = [
        {
            "value": {"choices": ["cat"]}, "from_name": "choice", "to_name": "image",
            "type": "choices", "origin": "manual",
        }
    ]  # fmt: skip
    return {"id": 1, "data": {"image": image}, "annotations": [{"result": result} | annotation]}


@pytest.mark.parametrize(
    "image",
    [
        "/data/local-files/?d=data/cat.png", "/data/upload/1/3f2a9c01-cat.png", "/data/cat.png",
        "s3://bucket/some/cat.png", "file:///data/cat.png", "http://host/cat.png?token=1",
    ],
)  # fmt: skip
def test_an_image_is_known_by_its_file(image: str) -> None:
    content = json.dumps([task(image, completed_by=7)]).encode()
    assert from_tasks(content, KNOWN, "Ann") == [Decision(IMAGE, "label", "7", "cat")]


def test_an_author_is_a_number_or_a_user() -> None:
    user = {"id": 7, "email": "ann@example.org", "first_name": "Ann"}
    content = json.dumps([task("cat.png", completed_by=user)]).encode()
    assert [one.who for one in from_tasks(content, KNOWN, "Eve")] == ["ann@example.org"]


def test_eight_letters_before_a_hyphen_are_a_name() -> None:
    assert from_tasks(json.dumps([task("siberian-cat.png")]).encode(), KNOWN, "Ann") == []


def test_what_is_not_answered_or_not_here_is_left_out() -> None:
    tasks = [
        task("cat.png", was_cancelled=True), task("dog.png"), task("cat.png", result=[]),
        {"data": {"image": "cat.png"}},
    ]  # fmt: skip
    assert from_tasks(json.dumps(tasks).encode(), KNOWN, "Ann") == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("<xml>", "not JSON"),
        ("{}", "not a list of tasks"),
        ('[{"image": "cat.png", "choice": "cat"}]', "task 1 .*JSON-MIN"),
        ('[{"data": {"image": "cat.png"}, "annotations": [{"result": [{"type": "choices"}]}]}]',
         "task 1"),
    ],
)  # fmt: skip
def test_another_file_is_refused(content: str, words: str) -> None:
    with pytest.raises(LabelStudioError, match=words):
        from_tasks(content.encode(), KNOWN, "Ann")


def test_all_that_holds_goes_out_and_comes_back() -> None:
    votes = (
        Decision(IMAGE, "label", "Ann", "cat", revision=1, at="2026-01-31T12:00:00+00:00"),
        Decision(IMAGE, "none", "Ben", revision=2, at="2026-01-31T12:00:01+00:00"),
    )
    content = as_tasks([Path("/data/cat.png")], [IMAGE], [Standing(votes)])
    (found,) = json.loads(content)
    assert found["data"] == {"image": "file:///data/cat.png", "sha256": IMAGE}
    back = from_tasks(content, {IMAGE: IMAGE}, "somebody")
    assert [(one.who, one.answer) for one in back] == [(one.who, one.answer) for one in votes]
