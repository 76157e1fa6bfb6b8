"""The bodies that the benchmark sends, to a real service."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving import v2
from testing.bundles import tiny_probabilities, tiny_spec
from testing.server import make_home, serve


@pytest.mark.exhaustive
@pytest.mark.slow
def test_both_kinds_are_answered_alike_and_rightly(tmp_path: Path) -> None:
    size = tiny_spec().preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (16, size, size, 3), np.uint8)
    right = tiny_probabilities(pixels)
    with serve(make_home(tmp_path), tmp_path / "log") as server:
        for kind in (v2.JSON, v2.BINARY):
            answers = v2.best_of(server.url, v2.body_of(kind, pixels))
            assert [index for index, _ in answers] == right.argmax(axis=1).tolist()
            best = [probability for _, probability in answers]
            assert best == pytest.approx(right.max(axis=1).tolist(), abs=1e-4)


class _Wordy(BaseHTTPRequestHandler):
    """Answers with an output that nobody asked for, before the one that was asked for."""

    def do_POST(self) -> None:
        features, probabilities = np.zeros(7, np.float32), np.array([0.2, 0.7, 0.1], np.float32)
        outputs = [
            {"name": name, "datatype": "FP32", "shape": [1, values.size],
             "parameters": {"binary_data_size": values.nbytes}}
            for name, values in (("features", features), ("probabilities", probabilities))
        ]  # fmt: skip
        head = json.dumps({"outputs": outputs}).encode()
        body = head + features.tobytes() + probabilities.tobytes()
        self.send_response(200)
        self.send_header("Inference-Header-Content-Length", str(len(head)))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_probabilities_are_found_among_other_outputs() -> None:
    with HTTPServer(("127.0.0.1", 0), _Wordy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pixels = np.zeros((1, 2, 2, 3), np.uint8)
        body = v2.body_of(v2.BINARY, pixels, "images")
        ((index, probability),) = v2.best_of(f"http://127.0.0.1:{server.server_port}", body)
        server.shutdown()
    assert index == 1
    assert probability == pytest.approx(0.7)
    assert b'"name": "images"' in body.content
