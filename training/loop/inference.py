"""What goes into the network, and predictions of whole splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from models.network.architecture import Architecture
from training.data.batch import Batch


def evaluation_batch_size(device: torch.device, micro_batch_size: int | None) -> int:
    """Images at once where nothing is kept for a backward pass.

    On a GPU as many as fill it; on the CPU as many as its cache likes (at 224 px on two cores 0.226
    s an image in batches of 4, 0.240 in batches of 16, 0.244 in batches of 32). Never more than the
    user found to fit.
    """
    size = 16 if device.type == "cpu" else 64
    return min(size, micro_batch_size or size)


def network_inputs(batch: Batch, normalize: nn.Module, device: torch.device) -> Tensor:
    """float32: normalised images [N,3,S,S], or features as they are."""
    inputs = batch.inputs.to(device, non_blocking=True)
    prepared: Tensor = normalize(inputs) if batch.start == 0 else inputs.float()
    return prepared


def predict(
    accelerator: Accelerator,
    architecture: Architecture,
    model: nn.Module,
    normalize: nn.Module,
    batches: Iterable[Batch],
    *,
    gather: bool = True,
    on_batch: Callable[[int], None] = lambda images: None,
) -> tuple[Tensor, Tensor]:
    """Run the model in eval mode over batches.

    Args:
        gather: the batches are this process's share; put those of all together.

    Returns:
        logits float32[N,C] and targets int64[N], on the CPU, in the order of the data set.
    """
    model.eval()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in batches:
        with torch.inference_mode(), accelerator.autocast():
            inputs = network_inputs(batch, normalize, accelerator.device)
            if batch.start == 0:
                logits = model(inputs)
            else:
                logits = architecture.run(model, inputs, batch.start)
        kept = batch.weights > 0
        parts.append((batch.indices[kept], logits.float().cpu()[kept], batch.targets[kept]))
        on_batch(int(kept.sum()))
    if gather and accelerator.num_processes > 1:
        parts = gather_object(parts)
    indices, logits, targets = map(torch.cat, zip(*parts, strict=True))
    order = indices.argsort()
    return logits[order], targets[order]
