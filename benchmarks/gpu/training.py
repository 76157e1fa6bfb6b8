"""Fine-tuning on the card: FC1 and FC2 from cached inputs, and all layers, beside the tutorial's
loop on the same card."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import vgg19

from benchmarks.gpu.place import Place
from benchmarks.gpu.timing import median_seconds, synchronised, traced
from training.data.batch import Batch
from training.features.batches import CachedFeatures
from training.loop.accelerator import make_accelerator
from training.loop.config import TrainConfig
from training.loop.context import TrainContext, load_data
from training.loop.setup import set_up, trainable_in
from training.loop.trainer import Trainer, TrainState
from training.reporter import SilentReporter

_RATE = 1e-5


def run(place: Place) -> None:
    fc_epochs(place, "fc, batch 32", batch_size=32)
    fc_epochs(place, "fc, batch 128", batch_size=128)
    fc_epochs(place, "fc, batch 32, compiled", batch_size=32, compile=place.on_gpu)
    for batch_size in (32, 64, 128) if place.on_gpu else (2,):
        full_steps(place, batch_size)


def fc_epochs(place: Place, name: str, *, batch_size: int, **config: Any) -> None:
    """An epoch that computes what goes into FC1 unless it is cached, and epochs that read it."""
    context, trainer = start(place, strategy="fc", batch_size=batch_size, views=1, augment="none",
                             cache_dir=place.path / "cache", **config)  # fmt: skip
    source = CachedFeatures(context, trainer.model)
    source.plan([trainable_in(context, 1)])
    images = len(context.data.split("train"))
    started = time.perf_counter()
    batches = source.batches("train", 1)
    seconds = time.perf_counter() - started
    place.add(
        f"{name}, inputs of FC1", images=images, seconds=seconds, images_per_s=images / seconds
    )
    epoch(trainer, batches)
    with traced() as kernels:
        epoch(trainer, source.batches("train", 2))
    place.add(f"{name}, warm epoch, kernels", busy=kernels.busy, longest=kernels.longest(10))
    seconds = epoch(trainer, source.batches("train", 3))
    steps = -(-images // batch_size)
    place.add(
        f"{name}, warm epoch",
        seconds=seconds,
        images_per_s=images / seconds,
        step_ms=1e3 * seconds / steps,
    )
    started = time.perf_counter()
    for _ in source.batches("train", 4):
        pass
    place.add(f"{name}, reading alone", step_ms=1e3 * (time.perf_counter() - started) / steps)


def epoch(trainer: Trainer, batches: Any) -> float:
    state = TrainState()
    started = time.perf_counter()
    for batch in batches:
        trainer.step(batch, state)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def full_steps(place: Place, batch_size: int) -> None:
    """Steps of all layers on batches that are decoded already, in turns."""
    ways: dict[str, Callable[[], object]] = {
        "this project": our_step(place, batch_size),
        "this project, compiled": our_step(place, batch_size, compile=place.on_gpu),
        "tutorial": tutorial_step(place, batch_size, amp=False),
        "tutorial, AMP": tutorial_step(place, batch_size, amp=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3 if place.on_gpu else 1):
        for name, step in ways.items():
            seconds[name].append(median_seconds(step, place.scale.seconds / 2))
    medians = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    for name, value in medians.items():
        place.add(
            f"full, batch {batch_size}, {name}",
            step_ms=1e3 * value,
            images_per_s=batch_size / value,
            times_as_fast_as_amp=medians["tutorial, AMP"] / value,
            times_as_fast=medians["tutorial"] / value,
        )
    if batch_size == 32 and place.on_gpu:
        for name in ("this project", "tutorial, AMP"):
            with traced() as kernels:
                for _ in range(10):
                    ways[name]()
            place.add(
                f"full, batch 32, {name}, kernels", busy=kernels.busy, longest=kernels.longest(8)
            )


def our_step(place: Place, batch_size: int, **config: Any) -> Callable[[], object]:
    _, trainer = start(place, strategy="full", batch_size=batch_size, views=0, **config)
    size = place.scale.image_size
    images = torch.randint(0, 256, (batch_size, size, size, 3), dtype=torch.uint8)
    targets = torch.randint(0, 10, (batch_size,))
    batch = Batch(pin(images), pin(targets), torch.arange(batch_size), torch.ones(batch_size))
    state = TrainState()
    return synchronised(lambda: trainer.step(batch, state))


def tutorial_step(place: Place, batch_size: int, *, amp: bool) -> Callable[[], object]:
    """PyTorch's transfer-learning tutorial, and its recipe for automatic mixed precision."""
    model = vgg19()
    model.load_state_dict(torch.load(place.weights, weights_only=True))
    model.classifier[6] = nn.Linear(4096, 10)
    model.to(place.device).train()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    size = place.scale.image_size
    images, targets = (
        pin(torch.randn(batch_size, 3, size, size)),
        pin(torch.randint(0, 10, (batch_size,))),
    )

    def step() -> None:
        inputs, labels = images.to(place.device), targets.to(place.device)
        optimizer.zero_grad()
        with torch.autocast(place.device, dtype=torch.bfloat16, enabled=amp):
            loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        loss.item()  # the tutorial adds it up

    return synchronised(step)


def start(place: Place, **config: Any) -> tuple[TrainContext, Trainer]:
    """As a run begins."""
    settings = {
        "data": place.data, "output": place.path / "run", "weights": str(place.weights),
        "image_size": place.scale.image_size, "learning_rate": _RATE, "epochs": 10**4, **config,
    }  # fmt: skip
    resolved = TrainConfig(**settings).resolved(blocks=5)
    accelerator = make_accelerator(resolved.device, resolved.mixed_precision)
    reporter = SilentReporter()
    context = TrainContext(resolved, load_data(resolved, reporter), accelerator, reporter)
    trainer, _ = set_up(context)
    return context, trainer


def pin(tensor: Tensor) -> Tensor:
    return tensor.pin_memory() if torch.cuda.is_available() else tensor
