"""Weights in every shape that files have them in; networks are thin, but for their names."""

from __future__ import annotations

import argparse
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.network.build import build
from models.network.vgg19 import VGG19
from models.network.weights import WeightsError, is_finite, read_weights, unwrapped
from testing.small_vgg import thin_vgg19
from testing.waiting import HANG_S

State = dict[str, Tensor]

pytestmark = pytest.mark.usefixtures("thin_network")


@pytest.fixture(scope="module")
def thin_state() -> State:
    torch.manual_seed(3)
    return dict(thin_vgg19(num_classes=5).state_dict())


@pytest.fixture
def state(thin_state: State) -> State:
    return {name: tensor.clone() for name, tensor in thin_state.items()}


def prefixed(prefix: str) -> Callable[[State], dict[str, Any]]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def wrapped(*keys: str) -> Callable[[State], dict[str, Any]]:
    def wrap(content: dict[str, Any]) -> dict[str, Any]:
        for key in keys:
            content = {"epoch": 3, key: content, "optimizer": {"state": {}, "param_groups": []}}
        return content

    return wrap


def compiled(state: State) -> dict[str, Any]:
    """As torch.compile of the convolutions alone names them."""
    return {name.replace("features.", "features._orig_mod."): t for name, t in state.items()}


SHAPES: dict[str, Callable[[State], dict[str, Any]]] = {
    "plain": lambda state: state,
    "DataParallel": prefixed("module."),
    "torch.compile": prefixed("_orig_mod."),
    "both": prefixed("module._orig_mod."),
    "Lightning": prefixed("model."),
    "backbone": prefixed("net.backbone."),
    "compiled in part": compiled,
    "FSDP": prefixed("_fsdp_wrapped_module."),
    "state_dict": wrapped("state_dict"),
    "model": wrapped("model"),
    "model_state_dict": wrapped("model_state_dict"),
    "wrapper in a wrapper": wrapped("model", "checkpoint"),
    "wrapper and prefix": lambda state: wrapped("state_dict")(prefixed("module.")(state)),
    "half": lambda state: {name: tensor.half() for name, tensor in state.items()},
    "averaged": lambda state: {"n_averaged": torch.tensor(2), **prefixed("module.")(state)},
    "beside a loss": lambda state: {"loss.weight": torch.ones(5), **prefixed("model.")(state)},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, state: State, shape: str) -> None:
    torch.save(SHAPES[shape](state), tmp_path / "w.pth")
    model = build(VGG19, str(tmp_path / "w.pth"), num_classes=2)
    for name, tensor in model.state_dict().items():
        if not name.startswith("classifier.6."):
            expected = state[name].half().float() if shape == "half" else state[name]
            assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_prefixes_in_safetensors(tmp_path: Path, state: State, prefix: str) -> None:
    save_file(prefixed(prefix)(state), tmp_path / "w.safetensors")
    read = read_weights(VGG19, str(tmp_path / "w.safetensors"))
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_what_pytorchs_own_wrappers_save(tmp_path: Path) -> None:
    model = thin_vgg19(num_classes=5)
    for number, wrapper in enumerate((nn.DataParallel(model), AveragedModel(model))):
        torch.save(wrapper.state_dict(), tmp_path / f"{number}.pth")
        assert (
            read_weights(VGG19, str(tmp_path / f"{number}.pth")).keys() == model.state_dict().keys()
        )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda s: {"model": s, "model_ema": s}, "2 networks ('model/', 'model_ema/')"),
        (lambda s: prefixed("student.")(s) | prefixed("teacher.")(s), "'student.', 'teacher.'"),
        (lambda s: {"model": {"fc.weight": torch.ones(2)}}, "nor is there in its 'model'"),
        (
            lambda s: {"aux_classifier.6.weight": torch.ones(2, 2)},
            "there is no classifier.6.weight",
        ),
        (lambda s: {"classifier.6.weight": torch.tensor(1.0)}, "not the weights of a torchvision"),
        (lambda s: [s], "holds a list, not a state dict"),
        (lambda s: {"state_dict": s, "args": argparse.Namespace()}, "never unpickled"),
        (lambda s: {}, "there is no classifier.6.weight"),
    ],
)
def test_what_is_not_the_weights_of_one_vgg(
    tmp_path: Path, state: State, content: Callable[[State], Any], words: str
) -> None:
    torch.save(content(state), tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        build(VGG19, str(tmp_path / "w.pth"), num_classes=2)
    assert str(caught.value).startswith(f"--weights {tmp_path / 'w.pth'}: ")
    assert words in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_a_sum_that_overflows_is_no_infinite_value() -> None:
    largest = torch.finfo(torch.float32).max
    assert is_finite(torch.tensor([largest, largest]))
    assert is_finite(torch.empty(0))
    assert not is_finite(torch.tensor([1.0, float("inf"), -float("inf")]))


def test_files_of_both_of_pytorchs_formats(tmp_path: Path, state: State) -> None:
    for is_new in (True, False):
        file = tmp_path / f"{is_new}.pth"
        torch.save(state, file, _use_new_zipfile_serialization=is_new)
        read = read_weights(VGG19, str(file))
        file.write_bytes(b"")  # what was read doesn't depend on the file any more
        assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("name", ["features.0.weight", "classifier.3.bias", "classifier.6.weight"])
def test_values_that_are_no_numbers(tmp_path: Path, state: State, name: str, value: float) -> None:
    state[name] = state[name].double()
    state[name].view(-1)[:2] = value
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"w\.pth: 2 of the .* values of {name} are NaN or Inf"):
        build(VGG19, str(tmp_path / "w.pth"), num_classes=2)


def _whole(state: State, file: Path) -> bytes:
    torch.save(state, file)
    return file.read_bytes()


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "the beginning": lambda whole: whole[: len(whole) // 2],
    "a page of a proxy": lambda whole: b"<html>502 Bad Gateway</html>",
    "zeros": lambda whole: bytes(len(whole)),
    "without its beginning": lambda whole: whole[1000:],
    "a pickle that ends early": lambda whole: b"\x80\x02}q\x00",
    "another network": lambda whole: Path(__file__).read_bytes(),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_download_names_its_file_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State, damage: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(DAMAGED[damage](_whole(state, tmp_path / "whole.pth")))
    with pytest.raises(WeightsError) as caught:
        build(VGG19, "imagenet", num_classes=2)
    message = str(caught.value)
    assert str(file) in message
    assert "delete the file" in message
    assert "weights_only" not in message


@contextmanager
def listening(answer: bytes | None) -> Iterator[int]:
    """A port of 127.0.0.1 that takes connections, reads, and says `answer`, or nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    connection, _ = server.accept()
                    taken.append(connection)
                    connection.recv(1000)
                    if answer is not None:
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(1000):  # closed before, it would be a reset
                            pass
            except OSError:
                return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(HANG_S)
        for connection in taken:
            connection.close()


@pytest.fixture
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # keeps the proxies of its first use
    return tmp_path


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "asked through the proxy of the environment, said nothing for 0.2 s"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407"),
        (b"HTTP/1.1 200 OK\r\n\r\nnot TLS at all", "can't be downloaded"),
        (b"", "can't be downloaded"),
    ],
)
def test_a_proxy_that_does_not_help_ends_with_a_sentence(
    nothing_cached: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes | None, words: str
) -> None:
    with listening(answer) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        with pytest.raises(WeightsError) as caught:
            read_weights(VGG19, "imagenet", download_timeout_s=0.2 if answer is None else HANG_S)
    message = str(caught.value)
    assert words in message
    for way in ("vgg19-dcbb9e9d.pth", "--weights PATH", "--weights none"):
        assert way in message
    assert socket.getdefaulttimeout() is None
    assert not list(nothing_cached.rglob("*.pth*"))


@pytest.mark.parametrize("answer", [b"<html>sign in</html>", b""])
def test_what_is_not_the_file_is_not_kept(nothing_cached: Path, answer: bytes) -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)
    with listening(reply) as port:
        network = replace(VGG19, imagenet_url=f"http://127.0.0.1:{port}/vgg19-dcbb9e9d.pth")
        with pytest.raises(WeightsError, match="can't be downloaded .*hash"):
            read_weights(network, "imagenet", download_timeout_s=HANG_S)
    assert not list(nothing_cached.rglob("*.pth*"))


def test_a_download_shows_progress_and_is_kept(
    nothing_cached: Path,
    capfd: pytest.CaptureFixture[str],
    state: State,
) -> None:
    content = _whole(state, nothing_cached / "whole.bin")
    name = f"thin-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
    with listening(reply) as port:
        network = replace(VGG19, imagenet_url=f"http://127.0.0.1:{port}/{name}")
        read = read_weights(network, "imagenet", download_timeout_s=HANG_S)
    assert torch.equal(read["features.0.weight"], state["features.0.weight"])
    assert (nothing_cached / "hub" / "checkpoints" / name).read_bytes() == content
    error = capfd.readouterr().err
    assert f"downloading http://127.0.0.1:{port}/{name}" in error
    assert "100%" in error
    # Nobody listens there any more.
    again = read_weights(network, "imagenet", download_timeout_s=HANG_S)
    assert again.keys() == state.keys()


def test_depth_is_limited() -> None:
    content: dict[str, Any] = {"classifier.6.weight": torch.ones(2, 2)}
    for _ in range(50):
        content = {"model": content}
    with pytest.raises(WeightsError, match=r"there is no classifier\.6\.weight"):
        unwrapped(VGG19, content)
