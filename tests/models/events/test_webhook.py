from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from models.events.config import new_key, parse_url, read_keys
from models.events.event import Event
from models.events.webhook import post, signature
from testing.ports import free_port
from testing.waiting import wait_until
from tests.models.events.receiver import receiver

EXAMPLE = Path(__file__).parents[3] / "examples" / "receive_events.py"
BODY = Event("events.test", "x", {"number": 1}, "/vgg19", id="e1").as_json("1")


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's own page."""
    key = base64.b64decode("plJ3nmyCDGBKInavdOK15jsl")
    body = b'{"event_type":"ping","data":{"success":true}}'
    assert signature("msg_loFOjxBNrRLzqYUf", 1731705121, body, [key]) == {
        "webhook-id": "msg_loFOjxBNrRLzqYUf",
        "webhook-timestamp": "1731705121",
        "webhook-signature": "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    }


def test_each_key_signs() -> None:
    header = signature("a", 1, b"{}", [b"old" * 10, b"new" * 10])["webhook-signature"]
    assert [one[:3] for one in header.split(" ")] == ["v1,", "v1,"]
    assert len(set(header.split(" "))) == 2


def test_https_wants_the_hosts_certificate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    with receiver(tls=tls) as there:
        url = parse_url(f"https://localhost:{there.port}/hook", allow_http=False)
        with pytest.raises(ssl.SSLCertVerificationError):
            post(url, BODY, [b"k" * 32])
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert post(url, BODY, [b"k" * 32]).is_taken
        assert len(there.requests) == 1


def test_an_answer_may_ask_for_time() -> None:
    for header, seconds in (("30", 30.0), ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0), ("9" * 9, 0.0)):
        with receiver(f"503 Retry-After={header}") as there:
            answer = post(parse_url(there.url, allow_http=False), BODY, [b"k" * 32])
        assert (answer.status, answer.retry_after_s, answer.is_taken) == (503, seconds, False)


def test_the_receiver_of_the_documentation(tmp_path: Path) -> None:
    """It takes what is signed, shows it once, and refuses what isn't or comes too late."""
    key = tmp_path / "events.key"
    key.write_text(new_key())
    port = free_port()
    url, keys = parse_url(f"http://127.0.0.1:{port}/", allow_http=False), read_keys(key)
    command = [sys.executable, str(EXAMPLE), str(key), str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            wait_until(lambda: is_open(port))
            assert post(url, BODY, [b"x" * 32]).status == 401
            assert post(url, BODY, keys).status == 204
            assert post(url, BODY, [b"old" * 10, *keys]).status == 204
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("time.time", lambda: 1731705121.0)
                assert post(url, BODY, keys).status == 401
            assert post(url, BODY.replace(b'"e1"', b'"e2"'), keys).status == 204
            assert process.stdout is not None
            for _ in range(2):  # a line comes after its answer
                assert process.stdout.readline() == 'vgg19.events.test x {"number": 1}\n'
        finally:
            process.terminate()
        assert process.stdout.read() == ""


def is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
