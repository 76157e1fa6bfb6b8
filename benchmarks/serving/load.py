"""Load by `wrk` (closed loop) and `h2load` (constant rate, gRPC), which share no code with any
server under test."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.v2 import Body
from protocol import open_inference_pb2 as pb

# Clients of a constant rate: processes that start one after the other, so that their requests are
# spread over time (the clients of one h2load process send all at the same moment).
_RATE_CLIENTS = 16
_GRPC_CONNECTIONS = 4
_TIMEOUT_S = 60
_LUA = """
wrk.method = "POST"
wrk.body = io.open({body}, "rb"):read("*a")
{headers}
{request}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    "RESULT [%d, %d, %d, %f, %f, %f, %f]\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency.mean, latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""
# Which of the two is sent is drawn, and the same in each run.
_LUA_ALSO = """
function init()
  math.randomseed(1)
  usual = wrk.format()
  also = wrk.format(nil, nil, {{{headers}}}, io.open({body}, "rb"):read("*a"))
end
function request()
  return math.random({one_in}) == 1 and also or usual
end
"""
ONE_IN = 10


class LoadError(Exception):
    """A load generator gave no result."""


@dataclass(frozen=True)
class Load:
    """What the clients saw. seconds: how long they sent; errors: failed requests; mean_ms: from
    sending to the answer."""

    requests: int
    errors: int
    seconds: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float

    def steady_rate(self, connections: int) -> float:
        """Requests a second of a closed loop, by Little's law. Where requests take seconds, a count
        of whole answers is off by those under way at the end: a batch of 16 of some hundred."""
        return 1e3 * connections / self.mean_ms


def check_tools() -> None:
    packages = {"wrk": "wrk", "h2load": "nghttp2-client"}
    missing = [f"{tool} (Debian package {packages[tool]})" for tool in packages if not _has(tool)]
    if missing:
        sys.exit(f"the benchmark needs {' and '.join(missing)}; install it and run again")


def closed_loop(
    url: str,
    body: bytes,
    content_type: str,
    connections: int,
    seconds: float,
    headers: Mapping[str, str] | None = None,
    also: Body | None = None,
) -> Load:
    """`connections` clients, each of which sends its next request after an answer.

    Args:
        also: what one request in `ONE_IN` sends instead.
    """
    with tempfile.TemporaryDirectory() as name:
        script = Path(name, "script.lua")
        usual = Body(body, content_type, headers or {})
        script.write_text(_script(Path(name), usual, also))
        output = _run(
            [
                "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s",
                "--timeout", f"{_TIMEOUT_S}s", "-s", str(script), url,
            ],
            seconds,
        )  # fmt: skip
    found = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    if found is None:
        raise LoadError(f"wrk printed no result: {output[-500:]}")
    requests, duration, errors, *times = json.loads(found[1].replace("nan", "0"))
    if not requests:
        raise LoadError(f"no request was answered within {duration / 1e6:.0f} s")
    mean, p50, p95, p99 = (value / 1e3 for value in times)
    return Load(requests, errors, duration / 1e6, mean, p50, p95, p99)


def _script(place: Path, usual: Body, also: Body | None) -> str:
    """For wrk, in Lua; what is sent is written to `place`."""
    request = ""
    if also is not None:
        request = _LUA_ALSO.format(
            headers=", ".join(f"[{key}] = {value}" for key, value in _lua_headers(also)),
            body=_lua_file(place / "also", also),
            one_in=ONE_IN,
        )
    lines = (f"wrk.headers[{key}] = {value}" for key, value in _lua_headers(usual))
    return _LUA.format(
        body=_lua_file(place / "body", usual), headers="\n".join(lines), request=request
    )


def _lua_headers(body: Body) -> Iterator[tuple[str, str]]:
    for key, value in {"Content-Type": body.content_type, **body.headers}.items():
        yield json.dumps(key), json.dumps(value)


def _lua_file(path: Path, body: Body) -> str:
    path.write_bytes(body.content)
    return json.dumps(str(path))


def constant_rate(
    url: str,
    body: bytes,
    content_type: str,
    rate: float,
    seconds: float,
    headers: Mapping[str, str] | None = None,
) -> Load:
    """`rate` requests a second over `_RATE_CLIENTS` connections of HTTP/1.1.

    A client whose answer is late sends its next request after it, so times are those from sending.
    """
    sent = {"Content-Type": content_type, **(headers or {})}
    words = [word for key, value in sent.items() for word in ("-H", f"{key}: {value}")]
    with tempfile.TemporaryDirectory() as name:
        data = Path(name, "body")
        data.write_bytes(body)
        logs = [Path(name, f"log{number}") for number in range(_RATE_CLIENTS)]
        processes = []
        try:
            for log in logs:
                command = _h2load(
                    url, data, seconds, log, "--h1", "-c1", f"--rps={rate / _RATE_CLIENTS:.4f}",
                    *words,
                )  # fmt: skip
                processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
                time.sleep(1 / rate)
            for process in processes:
                process.wait(timeout=seconds + _TIMEOUT_S)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return _from_logs(logs, seconds)


def grpc_closed_loop(
    address: str, method: str, message: bytes, concurrency: int, seconds: float
) -> Load:
    """`concurrency` calls at a time over a few connections. Statuses are in trailers, which h2load
    doesn't read: errors are only those of HTTP/2."""
    with tempfile.TemporaryDirectory() as name:
        data, log = Path(name, "body"), Path(name, "log")
        data.write_bytes(struct.pack(">BI", 0, len(message)) + message)  # uncompressed, its length
        command = _h2load(
            f"http://{address}{method}", data, seconds, log, f"-c{_GRPC_CONNECTIONS}",
            f"-m{concurrency // _GRPC_CONNECTIONS}",
            "-H", "content-type: application/grpc", "-H", "te: trailers",
        )  # fmt: skip
        _run(command, seconds)
        return _from_logs([log], seconds)


def infer_request(image: bytes) -> pb.ModelInferRequest:
    """The v2 protocol's request for one encoded image."""
    request = pb.ModelInferRequest(model_name="vgg19")
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1, 1])
    tensor.contents.bytes_contents.append(image)
    return request


def _h2load(url: str, data: Path, seconds: float, log: Path, *options: str) -> list[str]:
    duration = f"--duration={max(1, round(seconds))}"
    return ["h2load", "-t1", duration, f"--data={data}", f"--log-file={log}", *options, url]


def _from_logs(logs: Sequence[Path], seconds: float) -> Load:
    """Lines of: start, HTTP status (-1: none), microseconds."""
    lines = [line.split() for log in logs if log.exists() for line in log.read_text().splitlines()]
    good = [int(time_us) / 1e3 for _, status, time_us in lines if status == "200"]
    if len(good) < 2:
        raise LoadError(f"h2load had {len(good)} answers of {len(lines)} requests")
    cuts = statistics.quantiles(good, n=100, method="inclusive")
    return Load(
        len(good), len(lines) - len(good), float(max(1, round(seconds))), statistics.fmean(good),
        cuts[49], cuts[94], cuts[98],
    )  # fmt: skip


def _run(command: Sequence[str], seconds: float) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=seconds + 2 * _TIMEOUT_S
    )
    if result.returncode != 0:
        raise LoadError(f"{command[0]} failed: {result.stderr[-500:]}{result.stdout[-500:]}")
    return result.stdout


def _has(tool: str) -> bool:
    return shutil.which(tool) is not None
