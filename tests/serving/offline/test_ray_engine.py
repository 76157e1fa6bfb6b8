"""`vgg19 predict --engine ray`, on a Ray of this machine with two workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest

from serving.offline.files import Classified, PredictError
from serving.offline.ray_engine import Job, Worker, plan
from serving.offline.table import Progress
from serving.settings import Settings
from testing.commands import run_command
from testing.images import write_image_folder
from testing.server import make_home
from testing.waiting import HANG_S
from tests.serving.offline.test_predict import read

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed (pip install -e '.[ray]')"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("ray"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """40 images, one file that is none, one name in the list that has no file."""
    folder = write_image_folder(tmp_path / "images", {"blue": 14, "green": 12, "red": 14})
    (folder / "text.jpg").write_text("no image")
    names = [file.relative_to(tmp_path) for file in sorted(folder.rglob("*.*"))]
    listed = "".join(f"{name}\n" for name in [*names, "images/gone.png"])
    (tmp_path / "list.csv").write_text(f"path\n{listed}")
    return folder


@needs_ray
@pytest.mark.exhaustive  # Ray takes half a minute to start and to end
def test_rows_are_those_of_the_local_engine(home: Path, images: Path, tmp_path: Path) -> None:
    """Relative names, an interrupted run that goes on, files that can't be read; no word of Ray's,
    and nothing of it left."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["vgg19", "predict", "list.csv", "--top-k", "2", *arguments]
        return run_command(*command, cwd=tmp_path, home=home)

    local = run("--output", "local.csv")
    assert local.returncode == 0, local.stderr
    whole = read(tmp_path / "local.csv")
    version = next((home / "models" / "vgg19").glob("2026*")).name
    settings = {"model": version, "variant": "float32", "top_k": 2}
    with Progress(tmp_path / "ray.csv", settings) as progress:
        progress.add(Classified(whole[3]["file"], error="from before"))
    on_ray = run("--output", "ray.csv", "--engine", "ray", "--workers", "2")
    assert on_ray.returncode == 0, on_ray.stderr
    first, *rest = read(tmp_path / "ray.csv")
    assert first["error"] == "from before"
    by_file = {row["file"]: row for row in rest}
    assert len(rest) == len(by_file) == len(whole) - 1
    assert by_file == {row["file"]: row for row in whole if row["file"] != first["file"]}
    assert on_ray.stderr == ""
    said = [line for line in on_ray.stdout.splitlines() if not line.startswith("classifying")]
    assert said[0] == "going on: 1 of 42 are done"
    assert said[1].startswith(f"42 images by vgg19:{version} in ray.csv")
    assert said[2] == "3 could not be read, the table says why:"
    assert {line.partition(":")[0].strip() for line in said[3:]} == {
        first["file"], "images/text.jpg", "images/gone.png"
    }  # fmt: skip


@needs_ray
@pytest.mark.exhaustive
def test_an_end_is_one_line_and_keeps_what_is_done(
    home: Path, images: Path, tmp_path: Path
) -> None:
    """By SIGTERM, for which Ray has a handler of its own. Nobody else could reach Ray meanwhile."""
    listed = "".join(f"missing{number}.png\n" for number in range(20_000))
    (tmp_path / "long.csv").write_text(f"path\nimages/blue/0000.png\n{listed}")
    command = [
        sys.executable,
        "-m",
        "serving.offline.predict",
        str(tmp_path / "p.csv"),
        "1",
        "ray",
        "1",
    ]
    process = subprocess.Popen(
        [*command, str(tmp_path / "long.csv")], cwd=ROOT, text=True,
        env=os.environ | {"BENTOML_HOME": str(home), "VGG19_MAX_BATCH_SIZE": "1"},
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    part = tmp_path / "p.csv.part"
    while not part.exists() or part.stat().st_size < 10_000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    sockets = [one for child in children for one in child.net_connections("inet")]
    listening = {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
    process.terminate()
    _, said = process.communicate(timeout=HANG_S)
    assert process.returncode == 128 + signal.SIGTERM
    again = "run the same command again to continue with"
    assert said == f"interrupted; {again} {tmp_path / 'p.csv'}\n"
    assert json.loads(part.read_text().splitlines()[1])["file"].endswith(".png")
    _, alive = psutil.wait_procs(children, timeout=HANG_S)
    assert alive == []
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nowhere", "it must be HOST:PORT"),
        pytest.param("127.0.0.1:1", "Connection refused", marks=pytest.mark.exhaustive),
    ],
)
@needs_ray
def test_no_cluster_at_the_address(
    home: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str,
    said: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("RAY_ADDRESS", address)
    result = run_command(
        "vgg19", "predict", str(images), "--engine", "ray", cwd=tmp_path, home=home
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: Ray can't be reached at {address}: ")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


_WITHOUT_RAY = """
import sys

class WithoutRay:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ImportError(name)

sys.meta_path.insert(0, WithoutRay)
"""


def test_not_installed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_image_folder(tmp_path / "images", {"blue": 1})
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(_WITHOUT_RAY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'without'}{os.pathsep}{ROOT}")
    result = run_command(
        "vgg19", "predict", str(images), "--engine", "ray", cwd=tmp_path, home=home
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: Ray is not installed; install it with pip install")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "predictions.csv.part").exists()


def test_a_machine_that_does_not_see_the_images_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or all of its files would be listed as unreadable."""
    monkeypatch.chdir(tmp_path)
    job = Job(Settings(), tmp_path, "v", 1, folder=tmp_path / "not-here", witness="a/b.png")
    (answer,) = Worker(job)({"file": np.array(['"a/b.png"', '"a/c.png"'])})
    (line,) = answer["row"]
    assert f"there is no {tmp_path / 'a' / 'b.png'} here" in json.loads(line)["problem"]


def test_workers_are_for_ray_alone(home: Path, tmp_path: Path) -> None:
    result = run_command("vgg19", "predict", "images", "--workers", "2", cwd=tmp_path, home=home)
    assert result.stderr == "error: --workers 2 needs --engine ray, this is local\n"


def cpus(*counts: int) -> list[Mapping[str, float]]:
    return [{"CPU": float(count)} for count in counts]


@pytest.mark.parametrize(
    ("nodes", "workers", "threads", "expected"),
    [
        (cpus(8), 0, 0, (1, 8)),
        (cpus(2), 2, 0, (2, 1)),
        (cpus(8), 3, 0, (3, 2)),
        (cpus(8, 8), 0, 0, (2, 8)),
        (cpus(2, 4), 0, 0, (3, 2)),  # one more where there is room
        (cpus(0, 4), 0, 0, (1, 4)),  # a head node without CPUs takes none
        (cpus(8, 8), 0, 4, (4, 4)),
        (cpus(8, 2), 0, 4, (2, 4)),
    ],
)
def test_threads_fit_the_cpus_that_are_reserved(
    nodes: Sequence[Mapping[str, float]], workers: int, threads: int,
    expected: tuple[int, int],
) -> None:  # fmt: skip
    assert plan(nodes, workers, threads, on_gpu=False) == expected


def test_a_worker_for_each_gpu() -> None:
    nodes = [{"CPU": 8.0}, {"CPU": 16.0, "GPU": 4.0}]
    assert plan(nodes, 0, 0, on_gpu=True) == (4, 4)
    with pytest.raises(PredictError, match="5 workers of 1 threads don't fit"):
        plan(nodes, 5, 0, on_gpu=True)


@pytest.mark.parametrize(("nodes", "workers", "threads"), [(cpus(2), 3, 0), (cpus(2), 0, 4)])
def test_what_does_not_fit_is_told(
    nodes: Sequence[Mapping[str, float]], workers: int, threads: int
) -> None:
    with pytest.raises(PredictError, match="don't fit the Ray cluster's CPUs .2 CPUs 0 GPUs"):
        plan(nodes, workers, threads, on_gpu=False)
