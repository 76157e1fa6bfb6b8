"""A real `bentoml serve` process, asked by clients that nobody here wrote."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest

from testing import patient
from testing.bundles import tiny_probabilities, write_tiny_bundle
from testing.commands import run_command
from testing.images import COLOURS, coloured_pixels, encode
from testing.server import ROOT, Server, put_into_production, serve
from testing.waiting import HANG_S
from tests.integration.conftest import refusal

COUNT = 40
PIXELS = np.stack([coloured_pixels(seed) for seed in range(COUNT)])
EXPECTED = tiny_probabilities(PIXELS)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("images")
    files = [directory / f"{number:02}.png" for number in range(COUNT)]
    for file, pixels in zip(files, PIXELS, strict=True):
        file.write_bytes(encode(pixels))
    return files


def curl(*arguments: str) -> tuple[int, str, Any]:
    """Status, content type and JSON body of what curl got."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    result = subprocess.run(
        ["curl", "-sS", "-w", "\n%{http_code} %{content_type}", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_S,
    )
    body, _, status = result.stdout.rpartition("\n")
    code, _, content_type = status.partition(" ")
    return int(code), content_type, json.loads(body)


def triton(server: Server, mode: str, *files: Path) -> Any:
    command = [sys.executable, "-m", "tests.integration.triton_client"]
    arguments = [f"127.0.0.1:{server.grpc_port}", mode, *map(str, files)]
    result = subprocess.run(
        command + arguments, cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANG_S
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def in_label_order(predictions: list[dict[str, Any]]) -> list[float]:
    return [p["probability"] for p in sorted(predictions, key=lambda p: p["index"])]


def test_curl_with_a_raw_body(server: Server, images: list[Path]) -> None:
    status, content_type, reply = curl(
        "-H", "Content-Type: image/png", "--data-binary", f"@{images[2]}",
        f"{server.url}/classify?top_k=1",
    )  # fmt: skip
    assert (status, content_type) == (200, "application/json")
    assert reply["model_name"] == "vgg19"
    assert reply["model_version"].startswith("20260131-120000-")
    (prediction,) = reply["images"][0]["predictions"]
    assert prediction["label"] == COLOURS[prediction["index"]] == COLOURS[EXPECTED[2].argmax()]
    assert prediction["probability"] == pytest.approx(EXPECTED[2].max(), abs=1e-6)


def test_curl_with_a_form_of_two_images(server: Server, images: list[Path]) -> None:
    forms = ["-F", f"image=@{images[0]}", "-F", f"image=@{images[1]}"]
    status, _, reply = curl(*forms, f"{server.url}/classify?top_k=3")
    assert status == 200
    assert [image["filename"] for image in reply["images"]] == ["00.png", "01.png"]
    for image, expected in zip(reply["images"], EXPECTED[:2], strict=True):
        assert in_label_order(image["predictions"]) == pytest.approx(expected.tolist(), abs=1e-6)


def test_bad_bodies_are_problems_not_crashes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    url = f"{server.url}/classify"
    body = ["--data-binary", f"@{tmp_path / 'text.jpg'}"]
    assert curl("-H", "Content-Type: image/jpeg", *body, url)[:2] == (
        400,
        "application/problem+json",
    )
    assert curl("-F", f"image=@{tmp_path / 'text.jpg'}", url)[:2] == (
        400,
        "application/problem+json",
    )
    assert curl(*body, url)[0] == 415
    assert curl("-H", "Content-Type: image/jpeg", *body, f"{url}?top_k=x")[0] == 422


def test_a_form_field_with_a_url_is_not_fetched(server: Server) -> None:
    """BentoML's own parser downloads URL-valued fields; user routes must not go through it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        target = f"http://127.0.0.1:{listener.getsockname()[1]}/secret.png"
        response = patient.post(f"{server.url}/classify", files={"image": (None, target)})
        with pytest.raises(TimeoutError):
            listener.accept()
    assert response.status_code == 422


def test_tritons_client_reads_health_and_metadata(server: Server) -> None:
    reply = triton(server, "metadata")
    assert (reply["live"], reply["ready"], reply["model_ready"]) == (True, True, True)
    assert reply["other_ready"] is False
    assert reply["server"]["name"] == "vgg19-finetune"
    assert reply["model"]["platform"] == "onnxruntime_onnx"
    assert [tensor["name"] for tensor in reply["model"]["inputs"]] == ["image", "pixels"]
    assert [tensor["name"] for tensor in reply["model"]["outputs"]] == [
        "probabilities",
        "label",
        "accepted",
        "heatmap",
    ]


def test_tritons_client_gets_an_error_it_understands(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("not an image")
    reply = triton(server, "batch", tmp_path / "x.png")
    assert reply["status"] == "StatusCode.INVALID_ARGUMENT"
    assert reply["message"].startswith("not an image")


def test_a_batch_equals_single_answers_on_both_transports_at_once(
    server: Server, images: list[Path]
) -> None:
    """N single requests by HTTP and N by gRPC at the same time, and N in one gRPC request."""

    def post(file: Path) -> list[float]:
        response = patient.post(
            f"{server.url}/classify?top_k=3",
            content=file.read_bytes(),
            headers={"Content-Type": "image/png"},
        )
        return in_label_order(response.json()["images"][0]["predictions"])

    with ThreadPoolExecutor(COUNT + 1) as pool:
        over_grpc = pool.submit(triton, server, "singly", *images)
        over_http = [list(pool.map(post, images)) for _ in range(10)]
        singles = over_grpc.result()
    batch = triton(server, "batch", *images)

    assert len({tuple(row) for row in batch["probabilities"]}) == COUNT  # distinguishable
    np.testing.assert_allclose(batch["probabilities"], EXPECTED, atol=1e-6)
    assert batch["label"] == [COLOURS[i] for i in EXPECTED.argmax(axis=1)]
    assert batch["id"] == "r1"
    for rows in over_http:
        np.testing.assert_allclose(rows, batch["probabilities"], atol=1e-6)
    rows = [single["probabilities"][0] for single in singles]
    np.testing.assert_allclose(rows, batch["probabilities"], atol=1e-6)


def test_probes(server: Server) -> None:
    assert patient.get(f"{server.url}/livez").status_code == 200
    assert patient.get(f"{server.url}/readyz").status_code == 200
    assert 'service_name="vgg19"' in patient.get(f"{server.url}/metrics").text


def test_its_worker_is_found(server: Server) -> None:
    (worker,) = server.workers()
    assert worker in server.children()


def test_classify_command(server: Server, images: list[Path], tmp_path: Path) -> None:
    result = run_command(
        "vgg19", "classify", server.url, str(images[0]), str(images[1]), "--top-k", "1",
        cwd=tmp_path, home=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert f"{images[0]}: blue " in result.stdout
    assert f"{images[1]}: green " in result.stdout
    assert "answered by vgg19:20260131-120000-" in result.stdout


def test_sigterm_ends_it_cleanly_and_leaves_nothing(tiny_home: Path, tmp_path: Path) -> None:
    with serve(tiny_home, tmp_path / "log") as server:
        children = server.children()
        assert children
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=HANG_S) == 0
    _, alive = psutil.wait_procs(children, timeout=HANG_S)
    assert not alive


def own_processes() -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process().children(recursive=True)
    return children


class TestStartsThatFail:
    """One line on stderr, an exit code, and nothing left running."""

    def check(self, home: Path, words: str, **settings: str) -> str:
        before = [p.environ().get("BENTOML_HOME") for p in own_processes()].count(str(home))
        said = refusal(home, **settings)
        assert words in said
        homes = [process.environ().get("BENTOML_HOME") for process in own_processes()]
        assert homes.count(str(home)) == before
        return said

    def test_no_production_model(self, tmp_path: Path) -> None:
        way_out = "register one with 'vgg19 register RUN', then 'vgg19 promote latest'"
        assert way_out in self.check(tmp_path, "no production model in")

    def test_cuda_without_cuda(self, tiny_home: Path) -> None:
        from serving.engine.providers import has_cuda_driver

        if has_cuda_driver():
            pytest.skip("this machine has CUDA")
        self.check(tiny_home, "VGG19_DEVICE is cuda", VGG19_DEVICE="cuda")

    def test_a_setting_that_is_none(self, tiny_home: Path) -> None:
        self.check(tiny_home, "VGG19_DEVCE is not a setting", VGG19_DEVCE="cpu")

    def test_a_taken_grpc_port(self, tiny_home: Path, server: Server) -> None:
        self.check(
            tiny_home, "choose another VGG19_GRPC_PORT", VGG19_GRPC_PORT=str(server.grpc_port)
        )


def test_a_damaged_model_ends_the_service(tmp_path: Path) -> None:
    """The worker finds that out, since it reads the graph while it loads it."""
    home = put_into_production(write_tiny_bundle(tmp_path / "bundle"))
    (model,) = home.rglob("model.onnx")
    model.write_bytes(model.read_bytes() + b"x")
    log = tmp_path / "log"
    with pytest.raises(AssertionError, match=r"^ended with 1: "), serve(home, log):
        pass
    (line,) = (one for one in log.read_text().splitlines() if "CRITICAL" in one)
    assert "model.onnx does not match its manifest (SHA-256 is " in line
    assert "Traceback" not in log.read_text()


@pytest.mark.exhaustive  # which graphs are refused: tests/serving/engine/test_graph_check.py
def test_a_graph_with_a_foreign_operator_ends_the_service(tmp_path: Path) -> None:
    """Its manifest is right, so it can be registered; it is refused before a session is made."""
    from models.bundle.bundle import MODEL_FILE
    from models.bundle.manifest import read_manifest
    from models.bundle.writer import write_manifest

    bundle = write_tiny_bundle(tmp_path / "bundle")
    model = onnx.load(bundle / MODEL_FILE)
    model.graph.node[0].op_type = "Loop"
    onnx.save_model(model, bundle / MODEL_FILE)
    write_manifest(bundle, read_manifest(bundle).provenance)
    home = put_into_production(bundle)
    with (
        pytest.raises(
            AssertionError, match=r"(?s)^ended with 1: .*has the operator 'Loop'; it was not"
        ),
        serve(home, tmp_path / "log"),
    ):
        pass
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_failure_in_the_worker_ends_the_service(tiny_home: Path, tmp_path: Path) -> None:
    """Golden samples that differ show only in the worker, which BentoML would start again."""
    from models.bundle.bundle import GOLDEN_FILE
    from models.bundle.golden import GoldenSamples
    from models.bundle.manifest import read_manifest
    from models.bundle.writer import write_manifest

    bundle = write_tiny_bundle(tmp_path / "bundle")
    golden = GoldenSamples.read(bundle / GOLDEN_FILE)
    wrong = golden.probabilities + np.float32(0.01)
    golden.model_copy(update={"probabilities": wrong}).write(bundle / GOLDEN_FILE)
    write_manifest(bundle, read_manifest(bundle).provenance)
    home = put_into_production(bundle)

    with (
        pytest.raises(
            AssertionError, match=r"(?s)^ended with 1: .*differs from its golden samples"
        ),
        serve(home, tmp_path / "log"),
    ):
        pass
