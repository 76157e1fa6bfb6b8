"""A step without gradients of the linear layers equals the one with them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Adam

from models.network.strategies import ParameterGroup
from training.data.batch import Batch
from training.loop import linear_step
from training.loop.accelerator import make_accelerator
from training.loop.linear_step import gradient_norm
from training.loop.optimizer import make_optimizer
from training.loop.state import read_state, restore_state, save_state
from training.loop.trainer import Objective, Trainer, TrainingError, TrainState

Kind = Literal["adamw", "sgd"]
CLASSES = 4
FC1, FC2 = "2.weight", "5.weight"


@pytest.fixture(autouse=True)
def thin_layers_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """26 rows at a time of FC1, which has 200; of FC2 40 of 150."""
    monkeypatch.setattr(linear_step, "CHUNK_VALUES", 8_000)
    monkeypatch.setattr(linear_step, "LEAST_SIDE", 8)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has the following steps be the optimizer's alone."""
    return lambda: monkeypatch.setattr(linear_step, "LEAST_SIDE", math.inf)


class Thin(nn.Module):
    """Stands for FineTuner, with all kinds of layers. The head is too small for a chunk."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.model = nn.Sequential(
            *(nn.Conv2d(3, 3, 3, padding=1), nn.Flatten()),
            *(nn.Linear(300, 200), nn.ReLU(True), nn.Dropout(dropout)),
            *(nn.Linear(200, 150), nn.ReLU(True)),
            nn.Linear(150, CLASSES),
        )

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        result: Tensor = self.model(x)
        return result


def batch(number: int, images: int = 7) -> Batch:
    generator = torch.Generator().manual_seed(number)
    return Batch(
        torch.randn(images, 3, 10, 10, generator=generator),
        torch.randint(0, CLASSES, (images,), generator=generator),
        torch.arange(images),
        torch.ones(images),
    )


def make_trainer(
    kind: Kind = "adamw",
    *,
    accelerator: Accelerator | None = None,
    network: nn.Module | None = None,
    **options: Any,
) -> Trainer:
    thin = network or Thin()
    layers = list(thin.model.children())  # type: ignore[union-attr]
    groups = [
        ParameterGroup("head", list(layers[-1].parameters()), 3e-3),
        ParameterGroup("rest", [p for layer in layers[:-1] for p in layer.parameters()], 1e-3),
    ]
    accelerator = accelerator or make_accelerator("cpu", "no")
    return Trainer(
        accelerator,
        thin,  # type: ignore[arg-type]
        nn.Identity(),
        make_optimizer(
            groups, kind, weight_decay=0.05, momentum=0.9, device=torch.device("cpu")
        ),
        **{"objective": Objective(), "factor": lambda step: 1 / (1 + step), **options},
    )  # fmt: skip


def train(trainer: Trainer, first: int, last: int, state: TrainState | None = None) -> TrainState:
    """The steps `first` ... `last` - 1, each with its own dropout."""
    state = state or TrainState()
    for number in range(first, last):
        torch.manual_seed(number)
        trainer.step(batch(number), state)
    return state


def weights(trainer: Trainer) -> dict[str, Tensor]:
    network: nn.Module = trainer.model.model
    return network.state_dict()


def farthest(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all tensors, the largest difference relative to the tensor's norm."""
    assert actual.keys() == expected.keys()
    return max(
        float((actual[name] - value).norm() / value.norm()) for name, value in expected.items()
    )


def moments(trainer: Trainer) -> dict[str, Tensor]:
    states = trainer.optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index in states for key, value in states[index].items()}


def gradients(trainer: Trainer) -> set[str]:
    return {
        name for name, weight in trainer.model.model.named_parameters() if weight.grad is not None
    }


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 1e6},
        {"clip_norm": 0.1},
        {"clip_norm": 0.1, "micro_batch_size": 3},
        {"clip_norm": 0.1, "ema_decay": 0.9},
        {"objective": Objective(0.1, torch.tensor([1.0, 2.0, 0.5, 1.0])), "clip_norm": 0.1},
    ],
    ids=["free", "clip-idle", "clip", "pieces", "average", "class-weights"],
)
def test_fifty_steps_equal_the_plain_ones(
    kind: Kind, options: dict[str, Any], plain: Callable[[], None]
) -> None:
    ours = make_trainer(kind, **options)
    losses = train(ours, 0, 50).stats.loss_sum
    assert {FC1, FC2}.isdisjoint(gradients(ours))
    plain()
    theirs = make_trainer(kind, **options)
    expected = train(theirs, 0, 50).stats.loss_sum
    assert {FC1, FC2} < gradients(theirs)

    assert losses == pytest.approx(expected, rel=1e-6)
    assert farthest(weights(ours), weights(theirs)) < 1e-6
    assert farthest(weights(theirs), Thin().model.state_dict()) > 1e-3
    assert farthest(moments(ours), moments(theirs)) < 1e-5
    averages = [trainer.inference_model.state_dict() for trainer in (ours, theirs)]
    assert farthest(*averages) < 1e-6


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_run_goes_on_to_the_bit_and_with_either_step(
    kind: Kind, tmp_path: Path, plain: Callable[[], None]
) -> None:
    whole = make_trainer(kind, clip_norm=0.1)
    train(whole, 0, 6)
    begun = make_trainer(kind, clip_norm=0.1)
    save_state(tmp_path / "state.pt", begun, train(begun, 0, 3), [])

    def go_on() -> Trainer:
        trainer = make_trainer(kind, clip_norm=0.1)
        train(trainer, 3, 6, restore_state(read_state(tmp_path / "state.pt"), trainer))
        return trainer

    resumed = go_on()
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    torch.testing.assert_close(moments(resumed), moments(whole), rtol=0, atol=0)
    plain()
    otherwise = go_on()
    assert {FC1, FC2} < gradients(otherwise)
    assert farthest(weights(otherwise), weights(whole)) < 1e-6
    assert farthest(moments(otherwise), moments(whole)) < 1e-5


def test_a_plain_run_goes_on_without_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(linear_step, "LEAST_SIDE", math.inf)
        whole, begun = make_trainer(), make_trainer()
        train(whole, 0, 6)
        save_state(tmp_path / "state.pt", begun, train(begun, 0, 3), [])
    resumed = make_trainer()
    train(resumed, 3, 6, restore_state(read_state(tmp_path / "state.pt"), resumed))
    assert {FC1, FC2}.isdisjoint(gradients(resumed))
    assert farthest(weights(resumed), weights(whole)) < 1e-6


def test_bfloat16_is_as_near_as_its_rounding(
    plain: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "autocast", lambda _: torch.autocast("cpu", torch.bfloat16))

    def moved() -> dict[str, Tensor]:
        trainer = make_trainer("sgd", clip_norm=0.1)
        train(trainer, 0, 10)
        start = Thin().model.state_dict()
        return {name: value - start[name] for name, value in weights(trainer).items()}

    ours = moved()
    plain()
    assert farthest(ours, moved()) < 2**-7  # bfloat16 has 8 bits


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_no_step_is_taken_where_the_loss_is_no_number(kind: Kind) -> None:
    trainer = make_trainer(kind, clip_norm=0.1)
    state = train(trainer, 0, 2)
    before = copy.deepcopy((weights(trainer), moments(trainer), state))
    bad = batch(2)._replace(inputs=torch.full((7, 3, 10, 10), torch.inf))
    with pytest.raises(TrainingError, match="no step was taken"):
        trainer.step(bad, state)
    torch.testing.assert_close((weights(trainer), moments(trainer)), before[:2], rtol=0, atol=0)
    assert state == before[2]
    train(trainer, 2, 3, state)  # and goes on
    assert not torch.equal(weights(trainer)[FC1], before[0][FC1])


def test_what_was_recorded_before_memory_ran_out_is_forgotten() -> None:
    class Small(Thin):
        """The second piece doesn't fit, the first time."""

        calls = 0

        def forward(self, x: Tensor, start: int = 0) -> Tensor:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().forward(x)

    def one_step(network: Thin, size: int, *, auto_batch: bool) -> dict[str, Tensor]:
        trainer = make_trainer(
            "sgd", network=network, micro_batch_size=size, auto_batch=auto_batch, clip_norm=0.1
        )
        train(trainer, 0, 1)
        return weights(trainer)

    small, enough = Small(dropout=0), Small(dropout=0)  # other pieces, other masks
    enough.calls = 2
    assert torch.equal(
        one_step(small, 4, auto_batch=True)[FC1], one_step(enough, 2, auto_batch=False)[FC1]
    )
    assert small.calls == 2 + 4


class Wrapped(nn.Module):
    """As DistributedDataParallel and torch.compile wrap."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: Any) -> Tensor:
        result: Tensor = self.module(*arguments)
        return result


def wrapped(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.setattr(Accelerator, "prepare_model", lambda _, model: Wrapped(model))
    return make_trainer()


def compiled(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.setattr(torch, "compile", Wrapped)
    return make_trainer(compile_model=True)


def scaled(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    accelerator = make_accelerator("cpu", "no")
    accelerator.scaler = torch.amp.GradScaler("cpu")
    return make_trainer("sgd", accelerator=accelerator)


def unknown_optimizer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    def adam(groups: list[ParameterGroup], *_: object, **__: object) -> Adam:
        return Adam([{"params": g.parameters, "lr": 1e-3, "base_lr": 1e-3} for g in groups])

    monkeypatch.setattr(f"{__name__}.make_optimizer", adam)
    return make_trainer()


@pytest.mark.parametrize(
    "make", [wrapped, compiled, scaled, unknown_optimizer], ids=lambda m: m.__name__
)
def test_who_needs_gradients_finds_them(
    make: Callable[[pytest.MonkeyPatch], Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(monkeypatch)
    train(trainer, 0, 1)
    assert {FC1, FC2} < gradients(trainer)


def test_a_batch_too_large_for_a_layer_is_not_for_others() -> None:
    trainer = make_trainer()
    images = 150 // linear_step.LEAST_SIDE + 1
    trainer.step(batch(0, images), TrainState())
    assert FC2 in gradients(trainer)
    assert FC1 not in gradients(trainer)


def test_a_step_leaves_the_network_as_it_was() -> None:
    trainer = make_trainer()
    train(trainer, 0, 1)
    network = trainer.model.model
    assert all(parameter.requires_grad for parameter in network.parameters())
    network(batch(0).inputs).sum().backward()
    assert {FC1, FC2} < gradients(trainer)


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-3])
def test_the_norm_of_a_gradient_whose_terms_cancel(spread: float) -> None:
    """Inputs that are alike, and D that sums to zero over the batch: what is left of the sum is a
    millionth of its terms. In float32 such a norm is wrong by 10%."""
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(1, 900, generator=generator)
    x = x + spread * torch.randn(16, 900, generator=generator)
    d = torch.randn(16, 300, generator=generator)
    d -= d.mean(dim=0)
    expected = (d.double().T @ x.double()).norm()
    torch.testing.assert_close(gradient_norm(x, d), expected, rtol=1e-6, atol=0)
