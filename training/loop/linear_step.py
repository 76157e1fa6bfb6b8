"""Steps of large linear layers whose gradients never exist as a whole.

The gradient of a linear layer's weight is `D^T X`: X float32[N,in] went into the layer, and D
float32[N,out] is the gradient of the loss by what came out. On a CPU, much of a small batch's step
is to write the 478 MB of it for FC1 and FC2, to read them for the norm, to scale them, and to read
them again beside weights and moments. So X and D are kept in its place, a few megabytes. The norm
follows from them, and the optimizer's step is taken some rows at a time, whose gradient is made in
the processor's cache and used there.

PyTorch's optimizers do the arithmetic, and their state lies where it always does, so a run can be
gone on with either way. (LOMO, arXiv:2306.09782, and torchtune's optimizer_in_bwd step within the
backward pass, layer by layer; the norm of all gradients is then not known in time.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

# Values of a gradient made at once: 12.8 MB, which stay in the last level of the cache (of 32 MB).
# With 0.4, 0.8, 1.6, 3.2 and 6.4 million, a step took 207, 171, 166, 168 and 188 ms at a batch of
# 32; at 128, from 0.8 million on, 546, 509, 473 and 458: few rows are multiplied slowly. Smaller
# layers are left to the optimizer.
CHUNK_VALUES = 3_200_000
# A layer's smaller side, in images of a batch. What is saved doesn't grow with the batch, and
# arithmetic does: FC1 and FC2 gain up to 64 images, took 1.03 times as long at 128, and 1.16 times
# at 512 (docs/benchmarks.md).
LEAST_SIDE = 64

Factors = tuple[Tensor, Tensor]
"""X float32[N,in] and D float32[N,out] of a batch; the gradient is D^T X, float32[out,in]."""


def large_linear_layers(model: nn.Module, optimizer: Optimizer) -> list[nn.Linear]:
    """Those layers for which `LinearStep` pays; none for an optimizer that it doesn't know."""
    if type(optimizer) not in _UPDATES:
        return []
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    return [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and module.weight in trained
        and module.weight.numel() > CHUNK_VALUES
        and module.bias is not None  # so that what comes out has a gradient
    ]


class LinearStep:
    """The large linear layers' part of a step.

    In turn: `record` around the passes of a batch, `clip`, `take`. Layers that aren't recorded have
    gradients as ever, and the optimizer takes their step.

    Args:
        layers: of a float32 network on the CPU, neither compiled nor wrapped.
        optimizer: AdamW or SGD, as `make_optimizer` makes them, of these layers and others.
    """

    def __init__(self, layers: Sequence[nn.Linear], optimizer: Optimizer) -> None:
        self._layers = layers
        self._optimizer = optimizer
        self._factors: dict[Tensor, list[Factors]] = {}

    @property
    def has_recorded(self) -> bool:
        return bool(self._factors)

    @contextmanager
    def record(self, batch_size: int) -> Iterator[None]:
        """Keep X and D of each forward and backward pass in the place of gradients.

        What was recorded before is forgotten.

        Args:
            batch_size: images of all passes together, the rank of the gradients at most.
        """
        layers = [
            layer for layer in self._layers if min(layer.weight.shape) >= LEAST_SIDE * batch_size
        ]
        self._factors = {}
        handles = [layer.register_forward_hook(self._record_pass) for layer in layers]
        for layer in layers:
            layer.weight.requires_grad_(False)
        try:
            yield
        finally:
            for layer, handle in zip(layers, handles, strict=True):
                layer.weight.requires_grad_(True)
                handle.remove()

    @torch.no_grad()
    def clip(self, max_norm: float) -> None:
        """Scale all gradients, also those that don't exist, as `nn.utils.clip_grad_norm_` does."""
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        if not self._factors:
            nn.utils.clip_grad_norm_(parameters, max_norm)
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        factors = {weight: _whole_batch(passes) for weight, passes in self._factors.items()}
        norms = [nn.utils.get_total_norm(gradients).double()]
        norms += [gradient_norm(*pair) for pair in factors.values()]
        total = torch.stack(norms).norm()
        # As in `nn.utils.clip_grads_with_norm_`.
        coefficient = (max_norm / (total + 1e-6)).clamp(max=1.0).float()
        for gradient in gradients:
            gradient.mul_(coefficient)
        self._factors = {weight: [(x, d * coefficient)] for weight, (x, d) in factors.items()}

    @torch.no_grad()
    def take(self) -> None:
        """Take the step of the recorded layers, and forget what was recorded."""
        for group in self._optimizer.param_groups:
            for weight in group["params"]:
                if passes := self._factors.pop(weight, None):
                    x, d = _whole_batch(passes)
                    update = _UPDATES[type(self._optimizer)]
                    update(weight, x, d, group, self._optimizer.state[weight])

    def _record_pass(self, layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        """Forward hook. The gradient's hook is there before a ReLU overwrites the output, so the
        gradient that it gets is that of what came out of the layer."""
        x = inputs[0].detach()

        def record(d: Tensor) -> None:
            self._factors.setdefault(layer.weight, []).append((x.float(), d.float()))

        output.register_hook(record)


def gradient_norm(x: Tensor, d: Tensor) -> Tensor:
    """float64[]: the Frobenius norm of D^T X, by way of two matrices of [N,N].

    In float64, since terms cancel where inputs are alike and D sums to zero over the batch: in
    float32 such a norm was wrong by 10%. (PyTorch's norm of FC1's gradient is 1.2% too small on a
    CPU: it adds 103 million squares in float32.)
    """
    x, d = x.double(), d.double()
    return ((x @ x.T) * (d @ d.T)).sum().clamp(min=0).sqrt()


def gradient_rows(x: Tensor, d: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some rows of the weight at a time, and their gradient, which the next one overwrites."""
    rows = max(1, CHUNK_VALUES // x.shape[1])
    buffer = x.new_empty(rows, x.shape[1])
    for first in range(0, d.shape[1], rows):
        chunk = slice(first, first + rows)
        some = d[:, chunk].T
        yield chunk, torch.mm(some, x, out=buffer[: len(some)])


def _whole_batch(passes: list[Factors]) -> Factors:
    if len(passes) == 1:
        return passes[0]
    xs, ds = zip(*passes, strict=True)
    return torch.cat(xs), torch.cat(ds)


def _step_of_adamw(
    weight: Tensor, x: Tensor, d: Tensor, group: dict[str, Any], state: dict[str, Tensor]
) -> None:
    if not state:  # as AdamW itself begins
        state["step"] = torch.zeros(())
        state["exp_avg"] = torch.zeros_like(weight)
        state["exp_avg_sq"] = torch.zeros_like(weight)
    beta1, beta2 = group["betas"]
    for rows, gradient in gradient_rows(x, d):
        adamw(
            [weight[rows]],
            [gradient],
            [state["exp_avg"][rows]],
            [state["exp_avg_sq"][rows]],
            [],
            [state["step"].clone()],  # counted up with each call
            fused=group["fused"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
    state["step"] += 1


def _step_of_sgd(
    weight: Tensor, x: Tensor, d: Tensor, group: dict[str, Any], state: dict[str, Tensor]
) -> None:
    if group["momentum"] and not state:
        # SGD itself begins with the first gradient, which is what comes of zeros without dampening.
        state["momentum_buffer"] = torch.zeros_like(weight)
    for rows, gradient in gradient_rows(x, d):
        sgd(
            [weight[rows]],
            [gradient],
            [state["momentum_buffer"][rows] if group["momentum"] else None],
            fused=group["fused"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0,
            nesterov=False,
            maximize=False,
        )


_UPDATES: dict[type[Optimizer], Callable[..., None]] = {AdamW: _step_of_adamw, SGD: _step_of_sgd}
