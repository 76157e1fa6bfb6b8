"""bentofile.yaml and what is built from it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from testing import patient
from testing.commands import run_command
from testing.server import make_home, serve

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def bentofile() -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    return content


@pytest.mark.parametrize(
    ("flavour", "runtime"),
    [
        ("cpu", ["onnxruntime>=1.27", "openvino>=2026.1"]),
        ("gpu", ["onnxruntime-gpu[cuda,cudnn]>=1.27"]),
    ],
)
def test_the_images_get_the_serving_dependencies(flavour: str, runtime: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    expected = [d for d in project["dependencies"] if not d.startswith("onnxruntime")]
    lines = (ROOT / "deploy" / f"requirements-{flavour}.in").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [*expected, *runtime]


@pytest.mark.parametrize("flavour", ["cpu", "gpu"])
def test_the_images_get_the_versions_that_were_tested(flavour: str) -> None:
    tested = pins(ROOT / "requirements.lock")
    serving = pins(ROOT / "deploy" / f"requirements-{flavour}.lock")
    runtime = "onnxruntime-gpu" if flavour == "gpu" else "onnxruntime"
    assert {"bentoml", "grpcio", "numpy", runtime} <= set(serving)
    for name in serving.keys() & tested.keys():
        assert serving[name] <= tested[name], name
    assert not {"torch", "torchvision", "scipy", "matplotlib", "pytest"} & set(serving)
    assert "openvino-telemetry" not in {*tested, *serving}  # it reports each import


def pins(lock: Path) -> dict[str, set[str]]:
    """Of the lines `name==version`; several versions where they differ by Python's."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, version in re.findall(r"^([a-z][\w.-]*)==(\S+)", lock.read_text(), re.MULTILINE):
        found[name].add(version)
    return found


def test_the_service_names_the_same_base_image() -> None:
    base = bentofile()["docker"]["base_image"]  # type: ignore[index]
    assert f'Image(base_image="{base}", distro="")' in (ROOT / "service.py").read_text()


def test_what_is_included_exists() -> None:
    for name in bentofile()["include"]:  # type: ignore[attr-defined]
        assert (ROOT / name.lstrip("/")).exists(), name


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bento of the tiny model, exported to a folder of its own: no store, no other Bento."""
    directory = tmp_path_factory.mktemp("bento")
    home = make_home(directory)
    result = run_command("vgg19", "build", cwd=directory, home=home)
    assert result.returncode == 0, result.stderr
    again = run_command("vgg19", "build", cwd=directory, home=home)  # changes nothing
    assert again.stdout == result.stdout
    tag = result.stdout.split()[1].rstrip(";")
    archive = directory / "exported.tar.gz"
    exported = run_command("bentoml", "export", tag, str(archive), cwd=directory, home=home)
    assert exported.returncode == 0, exported.stderr
    shutil.unpack_archive(archive, directory / "exported", filter="data")
    (path,) = (directory / "exported").rglob("bento.yaml")
    return path.parent


def test_it_holds_what_serves_and_nothing_else(bento: Path) -> None:
    source = bento / "src"
    names = {path.name for path in source.iterdir()}
    packages = {"serving", "review", "web", "protocol", "models"}
    assert names == {"service.py", *packages, "bentofile.yaml"}
    assert (source / "serving" / "http" / "ui" / "index.html").is_file()
    assert (source / "review" / "page" / "index.html").is_file()
    assert not list(bento.rglob("*training*"))
    assert not list(bento.rglob("test_*"))
    torch_free = {path.stem for path in (source / "models").iterdir()} - {"__pycache__"}
    assert torch_free.isdisjoint({"vgg19", "freezing", "onnx_export"})
    requirements = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "onnxruntime==" in requirements
    assert "--hash=sha256:" in requirements
    dockerfile = (bento / "env" / "docker" / "Dockerfile").read_text()
    assert "build-essential" not in dockerfile
    assert dockerfile.rindex("USER ") == dockerfile.index("USER bentoml")  # and no other after it
    assert {"EXPOSE 3000", "EXPOSE 3001"} <= set(dockerfile.splitlines())
    assert "VGG19_GRPC_HOST" in dockerfile


# Imports every module below the working directory, without the finder of an installed checkout.
_IMPORT_ALL = """
import importlib, pathlib, sys
sys.meta_path[:] = [one for one in sys.meta_path if "editable" not in one.__module__]
sys.path.insert(0, ".")
for path in sorted(pathlib.Path().rglob("*.py")):
    importlib.import_module(".".join(path.with_suffix("").parts))
for name, module in sys.modules.items():
    if name.partition(".")[0] in ("models", "review", "serving", "web", "protocol", "service"):
        print(module.__file__)
"""


def test_it_imports_nothing_that_it_does_not_hold(bento: Path) -> None:
    """In an image this project isn't installed; here it is, and would stand in for what is
    missing."""
    source = bento / "src"
    result = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL], cwd=source, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    files = [Path(name) for name in result.stdout.splitlines()]
    assert len(files) > 50
    assert all((source / file).resolve().is_relative_to(source.resolve()) for file in files)


def test_a_shared_store_gets_its_model_and_is_followed(bento: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    settings = {"VGG19_STORE": str(shared), "VGG19_WORKERS": "2"}
    with serve(tmp_path / "nothing", tmp_path / "log", str(bento), **settings) as server:
        version = patient.get(f"{server.url}/model").json()["version"]
    history = (shared / "vgg19" / ".history.jsonl").read_text().split()
    assert (shared / "vgg19" / ".production").read_text().split()[0] == version
    assert sum('"why"' in word for word in history) == 1  # by one of the two workers
    with serve(tmp_path / "nothing", tmp_path / "log", **settings) as server:  # the project itself
        assert patient.get(f"{server.url}/model").json()["version"] == version


def test_it_serves_its_own_model_from_an_empty_home(bento: Path, tmp_path: Path) -> None:
    with serve(tmp_path / "nothing", tmp_path / "log", str(bento)) as server:
        (model,) = (bento / "models" / "vgg19").glob("*/manifest.json")
        reply = patient.get(f"{server.url}/model").json()
        assert reply["version"] == model.parent.name
        assert reply["spec"]["labels"] == ["blue", "green", "red"]
