"""Those whom the serving benchmark compares: what is pinned, what they need, where they run."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.serving import v2
from benchmarks.serving.__main__ import main
from benchmarks.serving.contenders import CONTENDERS
from benchmarks.serving.running import Contender, ContenderError, run
from benchmarks.serving.scenarios import SCENARIOS
from benchmarks.serving.workload import Expected, ServedBundle
from testing.bundles import tiny_probabilities
from testing.images import COLOURS, SIZE
from testing.server import make_home, serve

PEERS = Path("benchmarks/peers")
STARTED = {c.folder for c in CONTENDERS.values() if c.folder and not c.external}
EXTERNAL = {c.folder for c in CONTENDERS.values() if c.folder and c.external}


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def best(reply: Any) -> Expected:
    (row,) = [out["data"] for out in reply["outputs"] if out["name"] == "probabilities"]
    return Expected(COLOURS[int(np.argmax(row))], max(row))


@pytest.mark.parametrize("folder", sorted(STARTED))
def test_a_peers_packages_are_pinned(folder: str) -> None:
    if (PEERS / folder / "package.json").exists():
        package = json.loads((PEERS / folder / "package.json").read_text())
        assert all(re.fullmatch(r"\d+(\.\d+)+", pin) for pin in package["dependencies"].values())
        return
    lines = (PEERS / folder / "requirements.txt").read_text().splitlines()
    assert all("==" in line for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("folder", sorted(EXTERNAL))
def test_a_container_is_pinned_and_says_that_it_was_not_run(folder: str) -> None:
    recipe = (PEERS / folder / "compose.yaml").read_text()
    (image,) = re.findall(r"image: (\S+)", recipe)
    assert re.search(r":\d+(\.\d+)+", image)
    assert "Not run by this project" in recipe
    (name,) = re.findall(r"--at '?([^=']+)=", recipe)
    assert CONTENDERS[name].folder == folder


def test_a_program_that_is_missing_is_named_with_its_package() -> None:
    here = {"python3": "python3", "no-such-program": "its-package"}
    peer = Contender("peer", "folder", ("no-such-program",), "/", v2.one_image, best, needs=here)
    assert peer.missing() == ["apt-get install its-package"]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("this project", {"closed", "rate", "grpc", v2.JSON, v2.BINARY}),
        ("PyTriton", {"closed", "rate", "grpc"}),
        ("TorchServe", {"closed"}),
        ("Triton", {v2.JSON, v2.BINARY}),
        ("TensorFlow Serving", {"closed", "rate"}),
    ],
)
def test_a_server_is_asked_what_it_can_be_asked(name: str, kinds: set[str]) -> None:
    assert {s.kind for s in SCENARIOS if CONTENDERS[name].takes(s.kind)} == kinds


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--servers", "Triton"], "no server 'Triton'; there are this project"),
        (["--at", "FastAPI=http://127.0.0.1:1", "--model", "null"], "there are Triton, "),
        (["--at", "Triton=http://127.0.0.1:1"], "add --model null or --model real"),
        (["--only", "65 connections"], "there are 64 connections, 64 x 64; "),
        (["--at", "Triton", "--model", "null"], "--at Triton has no address"),
    ],
)
def test_a_wrong_choice_is_one_line(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["serving", *words])
    with pytest.raises(SystemExit):
        main()
    assert said in capsys.readouterr().err


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_server_that_runs_already_is_asked_checked_and_left_running(tmp_path: Path) -> None:
    pixels = np.full((SIZE, SIZE, 3), (200, 100, 50), np.uint8)
    image = png(pixels)
    probabilities = tiny_probabilities(pixels[None])[0]
    right = Expected(COLOURS[probabilities.argmax()], float(probabilities.max()))
    tiny = Contender("tiny", "elsewhere", (), v2.PATH, v2.one_image, best)
    served = ServedBundle("tiny", tmp_path, tmp_path)
    with serve(make_home(tmp_path), tmp_path / "log") as server:
        with run(tiny, served, tmp_path / "place", image, at=server.url) as running:
            running.check(image, right)
            with pytest.raises(ContenderError, match="right is"):
                running.check(image, Expected(right.label, right.probability - 0.1))
            assert running.tree.cpu_seconds() == 0  # nothing is known of its processes
        assert server.process.poll() is None
