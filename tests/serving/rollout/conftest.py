"""Processes in a candidate's place: they speak its protocol and do what they are told."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from testing.bundles import tiny_spec

# What every one of them begins with. `ready` and `say` send, `hear` waits for a question.
_HEAD = f"""
import json, os, signal, sys, time
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
def say(**message): connection.send_bytes(json.dumps(message).encode())
def hear(): return json.loads(connection.recv_bytes()), connection.recv_bytes()
def ready():
    say(preprocessing={tiny_spec().preprocessing.model_dump(mode="json")!r}, stops_at_once=True)
def answer(label="red", of_label=0.9):
    say(label=label, confidence=0.9, accepted=True, distance=0.5, of_label=of_label,
        inference_s=0.01)
"""

Command = Callable[[str], list[str]]


@pytest.fixture
def command() -> Command:
    """The command of a process that runs these lines."""
    return lambda lines: [sys.executable, "-S", "-c", _HEAD + lines]
