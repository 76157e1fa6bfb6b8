"""The same network in PyTorch on the same card: what a session is compared with.

An anchor does the whole of a session's work: uint8[N,S,S,3] that lie on the card -> normalised,
through VGG-19 -> float32[N,C] probabilities.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import VGG

from benchmarks.gpu.place import Place
from benchmarks.gpu.timing import median_seconds, synchronised, traced
from benchmarks.serving.null_model import CLASSES
from models.imaging.preprocessing import Preprocessing
from models.network.build import build
from models.network.normalize import Normalize
from models.network.vgg19 import VGG19

_EAGER = (
    ("float32", torch.float32, False),
    ("tf32", torch.float32, True),
    ("float16", torch.float16, False),
)
_COMPILED = (("default", 32), ("default", 128), ("reduce-overhead", 1))


class Whole(nn.Module):
    """VGG-19 in `dtype`, channels last, with what is before and behind it in float32."""

    def __init__(self, place: Place, dtype: torch.dtype) -> None:
        super().__init__()
        size = place.scale.image_size
        self.normalize = Normalize(Preprocessing(image_size=size, resize_size=size))
        network: VGG = build(VGG19, str(place.weights), CLASSES).eval()
        self.network = network.to(dtype=dtype, memory_format=torch.channels_last)
        self.dtype = dtype
        self.to(place.device)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalize(images).to(self.dtype))
        return logits.float().softmax(dim=1)


@torch.inference_mode()
def run(place: Place) -> None:
    whole = Whole(place, torch.float16 if place.on_gpu else torch.float32)
    for mode, batch in _COMPILED if place.on_gpu else _COMPILED[-1:]:
        torch.compiler.reset()
        compiled = torch.compile(whole, mode=mode, dynamic=False)
        _time(place, f"torch.compile {mode} float16", compiled, batch)
        if batch == 32:
            _kernels(place, "torch.compile float16", compiled, batch)
    for name, dtype, tf32 in _EAGER:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        whole = Whole(place, dtype)
        for batch in place.scale.batches:
            _time(place, f"torch eager {name}", whole, batch)


def _time(place: Place, name: str, whole: Callable[[Tensor], Tensor], batch: int) -> None:
    images = _images(place, batch)
    seconds = median_seconds(synchronised(lambda: whole(images)), place.scale.seconds)
    place.add(name, batch=batch, ms=1e3 * seconds, images_per_s=batch / seconds)


def _kernels(place: Place, name: str, whole: Callable[[Tensor], Tensor], batch: int) -> None:
    images = _images(place, batch)
    with traced() as kernels:
        for _ in range(10):
            whole(images)
    place.add(f"{name}, kernels", batch=batch, busy=kernels.busy, longest=kernels.longest(8))


def _images(place: Place, batch: int) -> Tensor:
    size = place.scale.image_size
    generator = torch.Generator().manual_seed(batch)
    images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, generator=generator)
    return images.to(place.device)
