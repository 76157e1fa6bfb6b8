from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.client import ClientError, Service, api_key

MODEL = {"model_name": "vgg19", "model_version": "v1"}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{number}.png" for number in range(70)]
    for file in files:
        file.touch()
    return files


def answering(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """`answer`: of a request's method, URL and options."""
    monkeypatch.setattr(httpx, "request", answer)


def test_as_many_requests_as_it_takes(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def answer(*_: object, files: list[Any], **__: object) -> httpx.Response:
        sizes.append(len(files))
        images = [{"filename": file[1][0], "predictions": []} for file in files]
        return httpx.Response(200, json=MODEL | {"images": images})

    answering(monkeypatch, answer)
    service = Service("http://127.0.0.1:1")
    answers = list(service.classify(files, 3))
    assert sizes == [32, 32, 6]
    assert [answer.file for answer in answers] == files
    assert [answer.reply and answer.reply["filename"] for answer in answers] == [
        file.name for file in files
    ]
    assert service.model == "vgg19:v1"


def test_a_file_that_is_too_large_stops_no_other(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service refuses the whole request then."""

    def answer(*_: object, files: list[Any], **__: object) -> httpx.Response:
        names = [file[1][0] for file in files]
        if "2.png" in names:
            return httpx.Response(413, json={"detail": "an image is 33.0 MB"})
        images = [{"filename": name, "predictions": []} for name in names]
        return httpx.Response(200, json=MODEL | {"images": images})

    answering(monkeypatch, answer)
    answers = list(Service("127.0.0.1:1").classify(files[:4], 3))
    assert [answer.error for answer in answers] == ["", "", "an image is 33.0 MB", ""]


@pytest.mark.parametrize("answer", [b"[]", b'"x"', b"<html>", b"{}", b'{"detail": "x"}'])
def test_another_server(files: list[Path], monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    answering(monkeypatch, lambda *_, **__: httpx.Response(200, content=answer))
    with pytest.raises(ClientError, match="is not this service"):
        list(Service("http://127.0.0.1:1").classify(files[:1], 3))


class TestApiKey:
    def test_of_a_variable_or_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEY", "secret")
        (tmp_path / "key").write_text("other\n")
        assert api_key("KEY", None) == "secret"
        assert api_key(None, tmp_path / "key") == "other"
        assert api_key(None, None) == ""

    def test_what_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ClientError, match="--api-key-env NONE: it is not set"):
            api_key("NONE", None)
        with pytest.raises(ClientError, match="can't be read"):
            api_key(None, tmp_path / "none")
        with pytest.raises(ClientError, match="name one"):
            api_key("KEY", tmp_path)

    @pytest.mark.parametrize("value", ["two\nlines", "schlüssel"])
    def test_a_variable_that_holds_no_key(
        self, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        """It was a traceback of the HTTP client."""
        monkeypatch.setenv("KEY", value)
        with pytest.raises(ClientError, match="--api-key-env KEY holds no key"):
            api_key("KEY", None)

    @pytest.mark.parametrize("content", ["", "two\nlines", "schlüssel"])
    def test_what_is_no_key_is_not_sent(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "key").write_text(content, encoding="utf-8")
        with pytest.raises(ClientError, match="holds no key"):
            api_key(None, tmp_path / "key")
