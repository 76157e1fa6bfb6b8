from __future__ import annotations

from pathlib import Path

import pytest

from models.captured import captured_images
from models.errors import UserError
from models.locations import LocationError, open_location, reason, without_credentials
from models.registry.transfer import pull
from serving.observability.capture import Capture

SECRET = "Tr0ub4dor"
# What fsspec has no file system for, or can't reach: each fails in a way of its own.
URLS = [
    f"{scheme}://user:{SECRET}@127.0.0.1:1/place" for scheme in ("nothing", "ftp", "sftp", "webdav")
]


def test_a_url_is_shown_without_what_is_secret_in_it() -> None:
    for url, shown in {
        "s3://id:" + "pass@bucket/a": "s3://bucket/a",
        "ftp://user:" + "p%40ss@host:21/a": "ftp://host:21/a",
        "https://host/a?sig=abc&sp=rw": "https://host/a?",
        "/plain/path": "/plain/path",
        "s3://bucket/a@b": "s3://bucket/a@b",
    }.items():
        assert without_credentials(url).rstrip("&") == shown


def test_a_reason_is_one_line_without_users_and_passwords() -> None:
    said = reason(OSError(f"can't open\n  ftp://user:{SECRET}@host/a and s3://id:{SECRET}@b"))
    assert said == "can't open ftp://host/a and s3://b"
    assert reason(ValueError()) == "ValueError"


@pytest.mark.parametrize("url", URLS)
def test_no_error_repeats_the_password_of_a_url(url: str, tmp_path: Path) -> None:
    said: list[str] = []
    for use in (
        lambda: open_location(url),
        lambda: Capture(url, "all", threshold=0.5, rate=1.0, limit_bytes=1),
        lambda: captured_images(url),
        lambda: pull(url, "latest"),
    ):
        try:
            use()
        except UserError as error:
            said.append(str(error))
    assert said
    assert SECRET not in "".join(said)
    assert not list(tmp_path.iterdir())


def test_a_protocol_that_nobody_knows() -> None:
    with pytest.raises(LocationError, match="Protocol not known"):
        open_location("nothing://place")
