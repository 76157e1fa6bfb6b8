"""`vgg19 build`: a Bento that carries one model, pinned, with only what serves it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any, Literal

import bentoml
import yaml
from bentoml.exceptions import BentoMLException

from models.errors import UserError
from models.registry import store

Flavour = Literal["cpu", "gpu"]


class BuildError(UserError):
    """BentoML can't build."""


def build(reference: str, flavour: Flavour) -> str:
    """Build a Bento of a registered model, and return its tag `vgg19:VERSION-FLAVOUR`.

    Built again, it is the same Bento: the version is the model's.

    Args:
        flavour: which ONNX Runtime; gpu brings CUDA and cuDNN as packages.

    Raises:
        StoreError, BundleError: no such model, or its files are damaged.
        BuildError: BentoML's own refusal.
    """
    version = store.resolve(reference)
    store.open_stored(version)
    root = _project()
    options: dict[str, Any] = yaml.safe_load((root / "bentofile.yaml").read_text(encoding="utf-8"))
    options["python"]["requirements_txt"] = f"./deploy/requirements-{flavour}.lock"
    options["labels"] |= {"model": version, "flavour": flavour}
    name = f"{store.MODEL_NAME}:{version}-{flavour}"
    try:
        existing = [str(bento.tag) for bento in bentoml.bentos.list(store.MODEL_NAME)]
    except BentoMLException:  # none of that name
        existing = []
    if name in existing:
        bentoml.bentos.delete(name)
    options["models"] = [f"{store.MODEL_NAME}:{version}"]
    with tempfile.TemporaryDirectory() as directory, chdir(root):  # BentoML reads only below it
        pinned = Path(directory) / "bentofile.yaml"
        pinned.write_text(yaml.safe_dump(options), encoding="utf-8")
        try:
            bento = bentoml.bentos.build_bentofile(
                str(pinned),
                name=store.MODEL_NAME,
                version=f"{version}-{flavour}",
                build_ctx=str(root),
            )
        except BentoMLException as error:
            raise BuildError(f"the Bento can't be built: {error}") from None
    return str(bento.tag)


def containerize(bento: str, image: str, backend: str) -> None:
    """Make an image of a Bento.

    Args:
        backend: a tool that BentoML can use: docker, podman, buildah, ...

    Raises:
        BuildError: it can't; with the tool's last words.
    """
    command = [sys.executable, "-P", "-m", "bentoml", "containerize", bento]
    options = ["--backend", backend, "-t", image]
    result = subprocess.run(command + options, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        words = (result.stderr.strip() or result.stdout.strip()).splitlines() or ["no reason given"]
        raise BuildError(f"{image} can't be made with {backend}: {words[-1]}")


def _project() -> Path:
    """The directory of bentofile.yaml, which lies beside service.py."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "bentofile.yaml").is_file():
        raise BuildError(f"{root} has no bentofile.yaml; build from a checkout of the project")
    return root
