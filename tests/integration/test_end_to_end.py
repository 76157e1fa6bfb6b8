"""From images to a served prediction, by the commands that a user types.

In CI with the real VGG-19, each command a process (and so does `make demo`); in `make test` with a
thin one, in the test's own process: the real one, and PyTorch's import, take a minute.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from models.bundle.bundle import open_bundle
from models.export.onnx_export import ServingModule, reference_probabilities
from models.imaging.image import load_image
from models.monitoring.reference import read_reference
from testing import patient
from testing.commands import run_command
from testing.images import COLOURS, SIZE, write_image_folder
from testing.server import ROOT, serve, store_of
from testing.small_vgg import thin_vgg19
from testing.waiting import HANG_S
from training.loop.checkpoint import load_checkpoint

Run = Callable[..., subprocess.CompletedProcess[str]]
CLASS_SIZES = dict.fromkeys(COLOURS, 40)


@dataclass(frozen=True)
class Place:
    """The directory that the story happens in; the tests below are its steps, in order."""

    path: Path
    is_real: bool  # the network, and the commands are processes


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(False, id="thin"),
        pytest.param(True, id="VGG-19", marks=pytest.mark.exhaustive),
    ],
)
def story(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    path = tmp_path_factory.mktemp("story")
    write_image_folder(path / "colours", CLASS_SIZES)
    (path / "colours" / "red" / "notes.jpg").write_text("not an image")
    with pytest.MonkeyPatch.context() as patch:
        if not request.param:
            patch.setattr("models.network.vgg19.vgg19", thin_vgg19)
        yield Place(path, request.param)


@pytest.fixture
def place(story: Place) -> Path:
    return story.path


class Vgg19:
    """The command, typed in the story's directory."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __call__(self, *arguments: str) -> str:
        """What it says, when it does what it is told to."""
        result = self._run(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    def refuses(self, *arguments: str) -> str:
        """What it says, when it doesn't."""
        result = self._run(*arguments)
        assert result.returncode == 1
        return result.stderr


@pytest.fixture
def vgg19(
    story: Place,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    run_main: Callable[..., int],
) -> Vgg19:
    home = story.path / "bentoml"
    if story.is_real:
        return Vgg19(partial(run_command, "vgg19", cwd=story.path, home=home))
    monkeypatch.chdir(story.path)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        with store_of(home):
            code = run_main(*arguments)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return Vgg19(run)


def test_1_train(vgg19: Vgg19, place: Path) -> None:
    output = vgg19(
        "train", "--data", "colours", "--output", "run", "--weights", "none",
        "--strategy", "head", "--image-size", str(SIZE), "--epochs", "2", "--batch-size", "8",
        "--learning-rate", "1e-2", "--seed", "1",
    )  # fmt: skip
    run = place / "run"
    assert "warning: 1 of 121 files are not images" in output
    assert "colours/red/notes.jpg: not an image" in output
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["resize_size"], config["pretrained_learning_rate"]) == (37, 1e-2)
    metrics = json.loads((run / "metrics.json").read_text())
    assert [row["epoch"] for row in metrics["history"]] == [0, 1, 2]  # 0: the closed form
    assert metrics["held_out"]["split"] == "test"
    assert metrics["held_out"]["accuracy"] >= 0.8  # three colours: chance is 0.33
    counts = json.loads((run / "data.json").read_text())["counts"]
    assert metrics["held_out"]["images"] == sum(counts["test"].values())
    for colour, size in CLASS_SIZES.items():  # each image goes where its own hash says
        held_out = counts["val"][colour], counts["test"][colour]
        assert counts["train"][colour] + sum(held_out) == size
        assert all(1 <= count <= 0.35 * size for count in held_out)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "best.safetensors",
        "last.safetensors",
    }


def test_2_a_run_is_never_overwritten(vgg19: Vgg19) -> None:
    said = vgg19.refuses("train", "--data", "colours", "--output", "run")
    assert said == "error: output run exists already; choose another --output or remove it\n"


def test_3_evaluate(vgg19: Vgg19, place: Path) -> None:
    recorded = json.loads((place / "run" / "metrics.json").read_text())["held_out"]
    output = vgg19("evaluate", "run")
    images, accuracy = recorded["images"], recorded["accuracy"]
    said = f"accuracy on the run's test split ({images} images): {accuracy:.1%}"
    assert said in output
    write_image_folder(place / "more", {"red": 5}, first_seed=1000)
    assert "accuracy on all images of more (5 images): " in vgg19(
        "evaluate", "run", "--data", "more"
    )


def test_4_export(vgg19: Vgg19, place: Path) -> None:
    output = vgg19("export", "run")
    assert "ONNX equals PyTorch" in output
    bundle = open_bundle(place / "run" / "bundle")
    assert bundle.spec.labels == COLOURS
    assert bundle.metrics()["onnx_parity"]["max_probability_difference"] <= 1e-4
    assert bundle.metrics()["heat_map_parity"]["max_difference"] <= 1e-3
    assert bundle.acceptance() is not None
    assert read_reference(bundle) is not None
    assert bundle.distance_path is not None
    assert bundle.explain_path is not None
    assert bundle.explain_path.stat().st_size < 20e6  # the weights are the model's own
    provenance = bundle.manifest.provenance
    assert provenance.seed == 1
    assert (
        provenance.data_fingerprint
        == json.loads((place / "run" / "data.json").read_text())["fingerprint"]
    )
    assert provenance.training_config["strategy"] == "head"
    assert provenance.packages["torch"]
    card = (bundle.path / "README.md").read_text()
    assert "accepted from a confidence of" in card
    assert "blue, green, red" in card
    assert "run/bundle exists" in vgg19.refuses("export", "run")


def test_5_register_promote_and_list(vgg19: Vgg19) -> None:
    registered = vgg19("register", "run")
    tag = registered.split()[1]
    assert vgg19("promote", tag).startswith(f"production is {tag};")
    listing = vgg19("models")
    assert f" {tag}  yes " in listing


def test_6_what_is_served_answers_as_the_checkpoint_does_in_pytorch(
    vgg19: Vgg19, place: Path
) -> None:
    files = sorted((place / "colours").rglob("*.png"))[::10]
    model, spec = load_checkpoint(place / "run" / "checkpoints" / "best.safetensors")
    pixels = np.stack([load_image(file, spec.preprocessing) for file in files])
    metrics = json.loads((place / "run" / "metrics.json").read_text())
    temperature = metrics["calibration"]["temperature"]
    expected = reference_probabilities(ServingModule(model, spec, temperature), pixels)

    with serve(place / "bentoml", place / "server.log") as server:
        parts = [("image", (file.name, file.read_bytes())) for file in files]
        reply = patient.post(f"{server.url}/classify?top_k=3", files=parts).json()
        explained = patient.post(
            f"{server.url}/classify", params={"explain": "true"}, files=parts
        ).json()
        output = vgg19("classify", server.url, *map(str, files), "--top-k", "1")

    for image, row in zip(explained["images"], expected, strict=True):
        assert image["heatmap"]["label"] == spec.labels[row.argmax()]
        assert image["heatmap"]["values"] == [[0.0]]  # one value has no contrast
        assert image["distance"] > 0
        assert isinstance(image["accepted"], bool)
    for image, row in zip(reply["images"], expected, strict=True):
        by_index = sorted(image["predictions"], key=lambda prediction: prediction["index"])
        assert [p["probability"] for p in by_index] == pytest.approx(row.tolist(), abs=1e-4)
    for file, row in zip(files, expected, strict=True):
        assert f"{file}: {spec.labels[row.argmax()]} {row.max():.1%}" in output


def test_7_golden_images_are_spread_over_the_classes(place: Path) -> None:
    golden = open_bundle(place / "run" / "bundle").golden()
    assert len(np.unique(golden.images.mean(axis=(1, 2)).argmax(axis=1))) == 3


@pytest.mark.parametrize(
    "seconds", [4.0, *(pytest.param(later, marks=pytest.mark.exhaustive) for later in (0.5, 9.0))]
)
def test_ctrl_c_in_the_demo_leaves_no_process(tmp_path: Path, seconds: float) -> None:
    """During the start, the import of torch, and training, on whatever machine this is."""
    with started([sys.executable, str(ROOT / "examples" / "demo.py")], tmp_path) as demo:
        time.sleep(seconds)
        check_that_nothing_is_left(demo, tmp_path)


def test_ctrl_c_while_the_demo_serves_leaves_no_process(tiny_home: Path, tmp_path: Path) -> None:
    program = f"""
import os, time
os.environ["BENTOML_HOME"] = {str(tiny_home)!r}
from pathlib import Path
from examples import demo
Path("demo-output").mkdir()
try:
    with demo.server(demo.free_port(), demo.free_port()):
        Path("ready").touch()
        time.sleep(600)
except KeyboardInterrupt:
    raise SystemExit(1)
"""
    with started([sys.executable, "-c", program], tmp_path) as demo:
        while not (tmp_path / "ready").exists():
            assert demo.poll() is None
            time.sleep(0.1)
        family = check_that_nothing_is_left(demo, tmp_path)
    assert len(family) >= 3  # the script, BentoML and its worker


# A shell's background jobs, and what they start, ignore Ctrl-C; a user's terminal doesn't.
HEED_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class started:  # noqa: N801
    """A process in a session of its own, killed at the end."""

    def __init__(self, command: list[str], cwd: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEED_CTRL_C, *command], cwd=cwd, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def check_that_nothing_is_left(demo: subprocess.Popen[bytes], cwd: Path) -> list[psutil.Process]:
    family = [psutil.Process(demo.pid), *psutil.Process(demo.pid).children(recursive=True)]
    demo.send_signal(signal.SIGINT)
    assert demo.wait(timeout=HANG_S) != 0
    _, alive = psutil.wait_procs(family[1:], timeout=HANG_S)
    assert not alive
    left = [p.info for p in psutil.process_iter(["pid", "cwd"]) if p.info["cwd"] == str(cwd)]
    assert left == []
    return family
