"""Requests made up from the service's own OpenAPI document, good and bad ones: its answers are as
the document says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    negative_data_rejection,
    positive_data_acceptance,
)

from serving.http.openapi import document
from testing.images import coloured_pixels, encode
from testing.server import serve
from testing.waiting import HANG_S

ADMIN = "admin"
IMAGE = encode(coloured_pixels(3))

schemathesis.openapi.format("binary", st.sampled_from([IMAGE, IMAGE[:50], b"no image"]))


service = schemathesis.openapi.from_dict(document())  # as it is at /openapi.json


@pytest.fixture(scope="module")
def url(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a service where everything is switched on."""
    options = {
        "VGG19_ADMIN_KEY": hashlib.sha256(ADMIN.encode()).hexdigest(),
        "VGG19_CAPTURE": "sample",
        "VGG19_CAPTURE_URL": str(tmp_path_factory.mktemp("kept")),
    }
    with serve(tiny_home, tiny_home / "described.log", **options) as server:
        yield server.url


def _is_another_form(body: Any) -> bool:
    """A form has no arrays: one without elements is no part, one of a single element that part."""
    values = body.values() if isinstance(body, dict) else []
    return any(isinstance(value, list) and len(value) < 2 for value in values)


@service.parametrize()
@settings(max_examples=60, derandomize=True, deadline=None, database=None,
          suppress_health_check=list(HealthCheck))  # fmt: skip
def test_answers_are_as_the_document_says(case: Any, url: str) -> None:
    headers = {"Authorization": f"Bearer {ADMIN}"}
    # Not_a_server_error: 503 and 504 are answers, where they are described.
    excluded = [not_a_server_error, ignored_auth]
    if case.path.endswith(("/classify", "/infer")):
        excluded.append(positive_data_acceptance)  # which bytes are an image no schema can say
    response = case.call(url, headers=headers, timeout=HANG_S)
    if response.status_code == httpx.codes.REQUEST_TIMEOUT:
        # A time limit that passes before the body is there is told, whatever the body would be.
        assert "X-Request-Timeout-Ms" in case.headers
        excluded.append(negative_data_rejection)
    if case.media_type == "multipart/form-data" and _is_another_form(case.body):
        excluded.append(negative_data_rejection)
    case.validate_response(response, headers=headers, excluded_checks=excluded)
    assert response.status_code != 500
