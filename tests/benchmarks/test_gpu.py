"""The kit for a GPU, as far as it goes without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, load, numpy_helper, save_model
from onnx.numpy_helper import from_array

from benchmarks.gpu.__main__ import run_step
from benchmarks.gpu.clients import grpc_request, http_request
from benchmarks.gpu.place import REHEARSAL, Place
from benchmarks.gpu.sessions import bfloat16
from benchmarks.gpu.timing import median_seconds
from benchmarks.gpu.wheels import cut, wanted_packages
from protocol import open_inference_pb2 as pb
from testing.waiting import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class TestSteps:
    def test_a_step_that_hangs_is_ended_with_all_it_started_and_its_figures_stay(
        self, tmp_path: Path
    ) -> None:
        place = Place(tmp_path, REHEARSAL, "check")
        child = "import subprocess,sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
        script = f"{child}; import time; time.sleep(600)"
        place.add("before", ms=1.5)
        assert not run_step(place, "hangs", [sys.executable, "-c", script], 3)
        rows = [json.loads(line) for line in place.results.read_text().splitlines()]
        assert [(row["what"], row.get("exit_code", 0)) for row in rows] == [
            ("before", 0), ("step hangs", None),
        ]  # fmt: skip
        started = int((tmp_path / "hangs.log").read_text())
        wait_until(lambda: not is_running(started))  # killed, it goes when the kernel gets to it

    @pytest.mark.parametrize("code", [0, 3])
    def test_what_became_of_a_step_is_told(self, tmp_path: Path, code: int) -> None:
        place = Place(tmp_path, REHEARSAL, "check")
        command = [sys.executable, "-c", f"print('said'); raise SystemExit({code})"]
        assert run_step(place, "ends", command, 60) is (code == 0)
        assert (tmp_path / "ends.log").read_text() == "said\n"

    def test_the_facts_of_a_machine_without_a_card(self, tmp_path: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.gpu.step",
            "facts",
            str(tmp_path),
            "--rehearse",
        ]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
        assert {"machine", "packages", "serving's view"} <= {row["what"] for row in rows}


def test_medians_are_of_calls_after_the_first_ones() -> None:
    calls: list[None] = []
    assert median_seconds(lambda: calls.append(None), seconds=0.0) < 1
    assert len(calls) > 5


class TestWheels:
    def test_what_is_there_is_left_out_but_for_what_must_fit(self) -> None:
        everything = set(wanted_packages("3.12", set()))
        names = {pin.partition("==")[0] for pin in everything}
        assert {"bentoml", "onnxruntime-gpu", "pillow", "imagehash"} <= names
        assert not {name for name in names if name.startswith(("nvidia-cu", "torch", "numpy"))}
        fewer = set(wanted_packages("3.12", names))
        assert {pin.partition("==")[0] for pin in fewer} == {
            "onnxruntime-gpu", "pillow", "cykooz-resizer", "protobuf", "grpcio",
        }  # fmt: skip

    def test_a_large_one_is_cut_and_comes_together_again(self, tmp_path: Path) -> None:
        wheel = tmp_path / "large.whl"
        content = bytes(range(256)) * 10
        wheel.write_bytes(content)
        parts = cut(wheel, 1000)
        assert [part.name for part in parts] == [f"large.whl.part0{n}" for n in range(3)]
        assert not wheel.exists()
        assert b"".join(part.read_bytes() for part in sorted(tmp_path.iterdir())) == content
        assert cut(parts[0], 1000) == []


class TestClients:
    def test_pixels_over_http(self) -> None:
        request = http_request("pixels", "127.0.0.1:1", bytes(2 * 4 * 4 * 3), 2)
        head, _, body = request.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        assert int(fields["Content-Length"]) == len(body)
        described = json.loads(body[: int(fields["Inference-Header-Content-Length"])])
        assert described["inputs"][0]["shape"] == [2, 4, 4, 3]

    def test_images_and_pixels_over_grpc(self) -> None:
        image = pb.ModelInferRequest.FromString(grpc_request("grpc", b"jpeg", 1))
        assert image.raw_input_contents[0] == b"\x04\x00\x00\x00jpeg"
        pixels = pb.ModelInferRequest.FromString(grpc_request("grpc-pixels", bytes(48), 1))
        assert list(pixels.inputs[0].shape) == [1, 4, 4, 3]


def test_bfloat16_is_the_upper_half_of_float32_rounded(tmp_path: Path) -> None:
    values = np.array([1.0, 1.00390625, -3.140625, 65280.0], np.float16)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "graph",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [4])],
        [from_array(values, "w")],
    )
    save_model(helper.make_model(graph), tmp_path / "fp16.onnx")
    path = bfloat16(tmp_path / "fp16.onnx", tmp_path / "bf16.onnx")
    (tensor,) = load(path).graph.initializer
    assert tensor.data_type == TensorProto.BFLOAT16
    back = numpy_helper.to_array(tensor).astype(np.float32)
    np.testing.assert_allclose(back, values.astype(np.float32), rtol=2**-8)
