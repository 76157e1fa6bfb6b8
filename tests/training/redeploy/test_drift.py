from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from models.errors import UserError
from models.files import json_text
from training.loop.config_file import ConfigError
from training.redeploy import job
from training.redeploy.config import load_redeploy_config
from training.redeploy.drift import DriftError, drifting
from training.redeploy.outcome import Outcome
from training.redeploy.smoke_test import ServiceConfig
from training.reporter import SilentReporter

CALM = {"model_version": "v1", "watched": True, "reason": None, "drift": {"alarm": None}}
ALARM = CALM | {"drift": {"alarm": {"at": 1.0, "features": ["size", "format"]}}}
NEW = CALM | {"drift": None}
OLD = CALM | {"watched": False, "reason": "version v1 has no reference", "drift": None}


@pytest.fixture
def service() -> Iterator[Callable[[Any, str], ServiceConfig]]:
    """Services that answer GET /drift with this, and ask for a key."""
    servers: list[HTTPServer] = []

    def start(content: Any, key_env: str | None = None) -> ServiceConfig:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_known = self.headers.get("Authorization", "") == "Bearer secret"
                self.send_response(200 if is_known or key_env is None else 401)
                self.end_headers()
                if self.path == "/drift":
                    self.wfile.write(json_text(content).encode())

            def log_message(self, *_: Any) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return ServiceConfig(http=f"http://127.0.0.1:{server.server_port}/", api_key_env=key_env)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


Start = Callable[..., ServiceConfig]


def test_one_alarm_of_several_counts(service: Start) -> None:
    assert drifting([service(CALM), service(NEW)]) is None
    found = drifting([service(CALM), service(ALARM)])
    assert found is not None
    assert found.endswith(": size, format")


def test_a_service_with_a_key(service: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = service(ALARM, "DRIFT_KEY")
    monkeypatch.setenv("DRIFT_KEY", "wrong")
    with pytest.raises(DriftError, match="401"):
        drifting([guarded])
    monkeypatch.setenv("DRIFT_KEY", "secret")
    assert drifting([guarded]) is not None


@pytest.mark.parametrize("key", ["secret\r\nx", "secr\x00et", "secrét"])
def test_a_key_that_no_header_holds_is_not_repeated(
    service: Start, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr("os.environ", os.environ | {"DRIFT_KEY": key})
    with pytest.raises(UserError, match="DRIFT_KEY holds no key") as refused:
        drifting([service(CALM, "DRIFT_KEY")])
    assert "secr" not in str(refused.value)


def test_a_key_with_a_newline_at_its_end_is_that_key(
    service: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFT_KEY", "secret\n")  # as a file of a secret often ends
    assert drifting([service(ALARM, "DRIFT_KEY")]) is not None


def test_who_can_not_say_is_an_error(service: Start) -> None:
    with pytest.raises(DriftError, match="doesn't watch version v1: version v1 has no reference"):
        drifting([service(OLD)])
    replies: list[Any] = [{}, [], {"watched": True}, CALM | {"drift": [1]}]
    replies += [CALM | {"drift": {}}, CALM | {"drift": {"alarm": {}}}]
    for content in replies:
        with pytest.raises(DriftError, match="doesn't say whether there is drift"):
            drifting([service(content)])
    with pytest.raises(DriftError, match="doesn't say whether there is drift"):
        drifting([ServiceConfig(http="http://127.0.0.1:1")])


def test_a_job_begins_with_an_alarm_only(
    service: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def begin(*_: Any, **__: Any) -> None:
        begun.append("begun")
        raise DriftError("as far as that")

    monkeypatch.setattr(job, "begin_job", begin)
    monkeypatch.setattr(job, "_check", lambda config: None)

    def run(content: Any, **options: bool) -> Outcome:
        file = tmp_path / "redeploy.yaml"
        services = [service(content).model_dump()]
        values = {"data": [str(tmp_path)], "state": str(tmp_path / "state"),
                  "start_on": "drift", "services": services}  # fmt: skip
        file.write_text(yaml.safe_dump(values))
        return job.redeploy(load_redeploy_config(file), SilentReporter(), None, **options)  # type: ignore[arg-type]

    outcome = run(CALM)
    assert (outcome.exit_code, outcome.message[:8], begun) == (0, "no drift", [])
    for content, options in ((ALARM, {}), (CALM, {"force": True})):
        with pytest.raises(DriftError, match="as far as that"):
            run(content, **options)
    assert len(begun) == 2


def test_somebody_is_to_be_asked(tmp_path: Path) -> None:
    file = tmp_path / "redeploy.yaml"
    file.write_text(yaml.safe_dump({"data": [str(tmp_path)], "start_on": "drift"}))
    with pytest.raises(ConfigError, match="start_on: drift needs services to ask"):
        load_redeploy_config(file)
