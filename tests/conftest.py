"""Fixtures that more than one test file uses."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from models import bentoml_adapter
from serving.engine.memory import freeze_gc
from serving.engine.providers import has_cuda_driver
from testing.bundles import write_tiny_bundle
from testing.small_vgg import thin_vgg19
from tests.object_store import bucket, s3_endpoint

__all__ = ["bucket", "s3_endpoint"]  # fixtures

_INTEGRATION = Path(__file__).with_name("integration")


def pytest_configure() -> None:
    """A script's background jobs ignore SIGINT, and what nohup starts SIGHUP; so would the
    processes that tests send them to."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    has_gpu = has_cuda_driver()
    for item in items:
        if not has_gpu and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA driver on this machine"))
        if _INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def frozen_gc() -> None:
    """As the service does when all is imported: PyTorch's million objects are looked at no more,
    which took 0.3 s at each start and end of a test's model. Anew for each file of tests, since
    some import more."""
    freeze_gc()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features that tests compute don't go to the user's cache, nor come from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # its list of fonts takes seconds
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    """Two real photographs of 640 x 427, from scikit-learn."""
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@pytest.fixture
def store_home(tmp_path: Path) -> Iterator[Path]:
    """An empty BentoML home for this process."""
    home = tmp_path / "bentoml"
    (home / "models").mkdir(parents=True)
    bentoml_adapter.choose_store_directory(home / "models")
    yield home
    bentoml_adapter.choose_store_directory(None)


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """`vgg19` with these arguments in this process, whose signals are as before then: its exit
    code."""
    from cli.main import main

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["vgg19", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny-bundle")


@pytest.fixture
def thin_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is built is `thin_vgg19`: for tests of what doesn't depend on a layer's width."""
    monkeypatch.setattr("models.network.vgg19.vgg19", thin_vgg19)
