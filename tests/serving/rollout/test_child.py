"""What runs in a candidate's process, here in this one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.spec import ModelSpec
from models.registry import store
from serving.engine.session import ModelOutput
from serving.rollout.child import Candidate, serve
from testing.bundles import tiny_probabilities, tiny_spec, write_tiny_bundle
from testing.images import coloured_pixels, encode
from testing.waiting import HANG_S

RED = coloured_pixels(0, "red")


@pytest.fixture(autouse=True)
def version(store_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("VGG19_STORE", str(store_home / "models"))
    yield store.register(write_tiny_bundle(tmp_path / "bundle")).rpartition(":")[2]
    store._chosen = None


def asked(version: str, *questions: tuple[dict[str, Any], bytes]) -> list[dict[str, Any]]:
    """All that it sends when it is asked these, and then left alone."""
    ours, theirs = Pipe()
    thread = Thread(target=serve, args=(theirs, version, 1))
    thread.start()
    messages = [json.loads(ours.recv_bytes())]
    for question, image in questions:
        ours.send_bytes(json.dumps(question).encode())
        ours.send_bytes(image)
        messages.append(json.loads(ours.recv_bytes()))
    ours.close()
    thread.join(HANG_S)
    assert not thread.is_alive()
    return messages


def test_it_answers_as_the_service_would(version: str) -> None:
    greeting, pixels, encoded, other, broken = asked(
        version,
        ({"encoded": False, "label": "red", "batch": 1}, RED.tobytes()),
        ({"encoded": True, "label": "red", "batch": 1}, encode(RED)),
        ({"encoded": False, "label": "a class that it lacks", "batch": 1}, RED.tobytes()),
        ({"encoded": True, "label": "red", "batch": 1}, b"no image"),
    )
    assert ModelSpec(labels=("a", "b"), preprocessing=greeting["preprocessing"])
    expected = float(tiny_probabilities(RED[None])[0].max())
    for answer in (pixels, encoded):
        assert answer["label"] == "red"
        assert answer["confidence"] == answer["of_label"] == pytest.approx(expected, abs=1e-6)
        assert answer["accepted"]
        assert answer["inference_s"] > 0
    assert other["of_label"] == 0
    assert broken == {"skipped": True}


def test_what_cannot_be_loaded_is_told(version: str) -> None:
    (store.stored_path(version) / "model.onnx").write_bytes(b"damaged")
    (message,) = asked(version)
    assert "model.onnx" in message["failed"]


class Liar:
    """A session that gives what it is told to."""

    max_batch_size = 4

    def __init__(self, output: ModelOutput | Exception) -> None:
        self._output = output
        self.batches: list[int] = []

    def judge(self, images: list[NDArray[np.uint8]]) -> list[ModelOutput]:
        self.batches.append(len(images))
        if isinstance(self._output, Exception):
            raise self._output
        return [self._output] * len(images)


def row(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("output", "failure", "reason"),
    [
        (ModelOutput(row(1, 0)), "invalid", r"shape \[2\], it has 3 classes"),
        (ModelOutput(row(np.nan, 0, 1)), "invalid", "NaN, negative or don't sum to 1"),
        (ModelOutput(row(-1, 1, 1)), "invalid", "negative"),
        (ModelOutput(row(0.9, 0.9, 0.9)), "invalid", "sum to 1"),
        (ModelOutput(row(0, 0, 1), np.inf), "invalid", "its distance is inf"),
        (RuntimeError("no\nmemory"), "error", "^no memory$"),
    ],
)
def test_lies_are_told_apart_from_answers(
    output: ModelOutput | Exception, failure: str, reason: str
) -> None:
    candidate = Candidate(Liar(output), tiny_spec(), None, ("PNG",), stops_at_once=True)  # type: ignore[arg-type]
    answer = candidate.answer({"encoded": False, "label": "red", "batch": 1}, RED.tobytes())
    assert answer["failure"] == failure
    assert re.search(reason, answer["reason"])


def test_it_is_timed_in_a_batch_of_productions_size() -> None:
    session = Liar(ModelOutput(row(0, 0, 1)))
    candidate = Candidate(session, tiny_spec(), None, ("PNG",), stops_at_once=True)  # type: ignore[arg-type]
    answers = [
        candidate.answer({"encoded": False, "label": "red", "batch": batch}, RED.tobytes())
        for batch in (1, 4, 5)
    ]
    assert session.batches == [1, 4, 1]
    assert [answer["inference_s"] is None for answer in answers] == [False, False, True]
