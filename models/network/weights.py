"""The weights that a run starts from: found, downloaded, unwrapped, looked at."""

from __future__ import annotations

import pickle
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies
from zipfile import is_zipfile

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.errors import UserError
from models.network.architecture import Architecture

IMAGENET = "imagenet"
# Above what a slow network takes to answer, and a proxy that says nothing ends soon.
DOWNLOAD_TIMEOUT_S = 15.0

# What wrappers of PyTorch put into the names of what they wrap, wherever that is.
_WRAPPED = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# A state dict lies in a checkpoint or in a part of one ({"checkpoint": {"model": ...}}).
_MAX_DEPTH = 3


class WeightsError(UserError):
    """The initial weights can't be had, or aren't those of the network."""


def read_weights(
    architecture: Architecture, weights: str, *, download_timeout_s: float = DOWNLOAD_TIMEOUT_S
) -> dict[str, Tensor]:
    """The state dict that `--weights` names, with the network's own names.

    Prefixes (`module.`, `_orig_mod.`, ...) and wrappers (`{"state_dict": ...}`) are taken off.

    Args:
        weights: `imagenet`, or the path of a `.safetensors` or `.pth` file.
        download_timeout_s: of silence, while connecting and later, that ends a download.

    Raises:
        WeightsError: no such file, no network, or not the weights of one such network. Shapes
            aren't looked at.
    """
    is_imagenet = weights == IMAGENET
    path = _downloaded(architecture, download_timeout_s) if is_imagenet else Path(weights)
    if not path.is_file():
        raise not_weights(weights, "no such file; ")
    with blamed(architecture, weights):
        state = unwrapped(architecture, _read(path))
        # Mapped files are read here, by all threads and into huge pages; a later step would copy
        # them page by page.
        state = {name: tensor.clone() for name, tensor in state.items()}
        _check_finite(state)
        return state


def not_weights(weights: str, why: str, option: str = "--weights") -> WeightsError:
    """Of what is neither a known word nor a file."""
    return WeightsError(
        f"{option} {weights}: {why}it is 'imagenet', 'none', or the path of a .safetensors or .pth "
        "state dict"
    )


@contextmanager
def blamed(architecture: Architecture, weights: str) -> Iterator[None]:
    """Have a WeightsError name the file, and what to do about it."""
    try:
        yield
    except WeightsError as error:
        if weights == IMAGENET:
            raise WeightsError(
                f"the cached ImageNet weights are damaged: {imagenet_file(architecture)}: {error}; "
                "delete the file, and the next run downloads it again"
            ) from error.__cause__
        raise WeightsError(f"--weights {weights}: {error}") from error.__cause__


def unwrapped(architecture: Architecture, content: object) -> dict[str, Tensor]:
    """The one state dict of the network in what a file held, without what was put before its names.

    Raises:
        WeightsError: there is none, or more than one.
    """
    if not isinstance(content, Mapping):
        raise WeightsError(f"holds a {type(content).__name__}, not a state dict")
    found = list(_states(architecture.head_weight, content, ""))
    if not found:
        parts = [f"'{key}'" for key, value in content.items() if isinstance(value, Mapping)]
        where = f", nor is there in its {', '.join(parts)[:200]}" if parts else ""
        raise WeightsError(
            f"not the weights of a torchvision {architecture.title} (there is no "
            f"{architecture.head_weight}{where})"
        )
    if len(found) > 1:
        names = ", ".join(f"'{name}'" for name, _ in found)
        raise WeightsError(
            f"holds the weights of {len(found)} networks ({names}); save those of one alone"
        )
    return found[0][1]


def _states(
    head_weight: str, content: Mapping[object, object], place: str
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each state dict with the network's head, and where it is: its wrappers and its prefix."""
    tensors = {
        _WRAPPED.sub("", str(name)): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
    for name in tensors:
        prefix = name.removesuffix(head_weight)
        if name != prefix and (not prefix or prefix.endswith(".")):
            own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            yield f"{place}{prefix}" or head_weight, own
    if place.count("/") < _MAX_DEPTH:
        for key, value in content.items():
            if isinstance(value, Mapping):
                yield from _states(head_weight, value, f"{place}{key}/")


def _read(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        is_new = is_zipfile(path)  # PyTorch's format from before 1.6 can't be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_new)
    except Exception as error:  # safetensors, zipfile and torch raise many types on damaged files
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            # torch's own text advises weights_only=False, which would run code from the file.
            raise WeightsError(
                "damaged, not a state dict, or with more than tensors in it, which is never "
                "unpickled; save model.state_dict() alone"
            ) from error
        raise WeightsError(f"no state dict can be read from it: {line(error)}") from error


def _check_finite(state: Mapping[str, Tensor]) -> None:
    """Raise WeightsError for NaN or Inf, also for what is too large for float32."""
    for name, tensor in state.items():
        if not tensor.is_floating_point() or tensor.layout is not torch.strided:
            continue  # no weight of the network, which shapes and names will tell
        if not is_finite(tensor.float()):
            bad = tensor.numel() - int(tensor.float().isfinite().sum())
            raise WeightsError(
                f"{bad:,} of the {tensor.numel():,} values of {name} are NaN or Inf, so nothing "
                "can be trained from it; take weights from before that happened"
            )


def is_finite(tensor: Tensor) -> bool:
    """Whether no value of a floating-point tensor is NaN or Inf.

    A finite sum has neither in it, and unlike `isfinite` takes no memory: for FC1's 411 MB that is
    most of the time. A sum may overflow where no value does.
    """
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def imagenet_file(architecture: Architecture) -> Path:
    """Where torchvision keeps the ImageNet weights; TORCH_HOME moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(architecture.imagenet_url).name


def _downloaded(architecture: Architecture, timeout_s: float) -> Path:
    url, file = architecture.imagenet_url, imagenet_file(architecture)
    if not file.exists():
        try:
            _download(url, file, timeout_s)
        except OSError as error:  # URLError is one
            raise WeightsError(_no_download(file, _why(url, error, timeout_s))) from None
        except Exception as error:  # of http.client and of torch, which checks the SHA-256
            raise WeightsError(_no_download(file, line(error))) from error
    return file


def _download(url: str, file: Path, timeout_s: float) -> None:
    """Into place, whole, if its SHA-256 begins as its name says. Proxies are urllib's business:
    HTTPS_PROXY, NO_PROXY and the like."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"downloading {url} to {file}\n")
    digest = file.stem.rpartition("-")[2]
    with _socket_timeout(timeout_s):
        torch.hub.download_url_to_file(url, str(file), digest, progress=True)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """For sockets that are made meanwhile: torch.hub takes no time-out of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _why(address: str, error: OSError, timeout_s: float) -> str:
    """In words: urllib brings a time-out in several ways."""
    cause = getattr(error, "reason", error)
    if not isinstance(cause, TimeoutError):
        return line(error)
    url = urlsplit(address)
    proxy = ", asked through the proxy of the environment," if url.scheme in getproxies() else ""
    return f"{url.hostname}{proxy} said nothing for {timeout_s:g} s"


def _no_download(file: Path, why: str) -> str:
    return (
        f"the ImageNet weights are not in {file} and can't be downloaded ({why}); "
        "three ways on: put the file there (--weights imagenet; TORCH_HOME moves the "
        "directory), name a state dict (--weights PATH.safetensors or PATH.pth), or start "
        "from scratch (--weights none)"
    )


def line(error: BaseException) -> str:
    """An exception's text as one line of readable length."""
    return " ".join(str(error).split())[:300]
