from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torchvision.models import VGG, VGG19_Weights, vgg19

from models.imaging.preprocessing import Preprocessing
from models.network.build import replace_head
from models.network.normalize import Normalize
from models.network.strategies import (
    FineTuner,
    ParameterGroup,
    parameter_groups,
    trainable_layers,
)
from models.network.unfreezing import Strategy
from models.network.vgg19 import VGG19
from testing.small_vgg import thin_vgg19
from training.data.batch import Batch
from training.loop.accelerator import make_accelerator
from training.loop.inference import predict
from training.loop.optimizer import make_optimizer
from training.loop.trainer import Objective, Trainer, TrainingError, TrainState

CPU = torch.device("cpu")
CLASSES = 3
# The defaults with pretrained weights. AdamW's first steps are nearly sign(gradient), so at larger
# rates the rounding of its fused kernel (here) against the plain one (there) shows in the loss.
HEAD_RATE, REST_RATE = 1e-4, 1e-5


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, Tensor]]:
    """Three batches of (uint8[4,32,32,3], int64[4])."""
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=generator),
            torch.randint(0, CLASSES, (4,), generator=generator),
        )
        for _ in range(3)
    ]


def plain_loop(
    model: VGG, strategy: Strategy, optimizer_name: str, batches: list[tuple[Tensor, Tensor]]
) -> list[float]:
    """The tutorial's loop, written out: nothing of this project in it."""
    if strategy == "fc":
        for parameter in model.parameters():
            parameter.requires_grad = False
        for index in (0, 3):
            for parameter in model.classifier[index].parameters():
                parameter.requires_grad = True
    model.classifier[6] = nn.Linear(model.classifier[6].in_features, CLASSES)
    head = list(model.classifier[6].parameters())
    rest = [p for n, p in model.named_parameters() if p.requires_grad and "classifier.6" not in n]
    rates = [{"params": head, "lr": HEAD_RATE}, {"params": rest, "lr": REST_RATE}]
    optimizer = (
        AdamW(rates, weight_decay=0.01)
        if optimizer_name == "adamw"
        else SGD(rates, momentum=0.9, weight_decay=0.01)
    )
    transform = VGG19_Weights.IMAGENET1K_V1.transforms(crop_size=32, resize_size=32)
    criterion = nn.CrossEntropyLoss()
    losses = []
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(transform(images.permute(0, 3, 1, 2))), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def as_batch(images: Tensor, targets: Tensor) -> Batch:
    return Batch(images, targets, torch.arange(len(targets)), torch.ones(len(targets)))


def our_loop(
    model: VGG,
    strategy: Strategy,
    optimizer_name: Literal["adamw", "sgd"],
    batches: list[tuple[Tensor, Tensor]],
    micro_batch_size: int | None = None,
) -> list[float]:
    replace_head(VGG19, model, CLASSES)
    rates = dict.fromkeys(VGG19.layer_names, REST_RATE) | {"classifier.6": HEAD_RATE}
    tuner = FineTuner(VGG19, model)
    tuner.set_trainable(trainable_layers(VGG19, strategy))
    optimizer = make_optimizer(
        parameter_groups(VGG19.layers(model), trainable_layers(VGG19, strategy), rates),
        optimizer_name,
        weight_decay=0.01,
        momentum=0.9,
        device=CPU,
    )
    trainer = Trainer(
        make_accelerator("cpu", "no"),
        tuner,
        Normalize(Preprocessing(image_size=32, resize_size=32)),
        optimizer,
        objective=Objective(),
        factor=lambda step: 1.0,
        micro_batch_size=micro_batch_size,
    )
    state = TrainState()
    sums = [0.0]
    for images, targets in batches:
        trainer.step(as_batch(images, targets), state)
        sums.append(state.stats.loss_sum)
    return [(after - before) / 4 for before, after in pairwise(sums)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "strategy", "optimizer_name"),
    [
        pytest.param(vgg19, "full", "adamw", marks=pytest.mark.exhaustive),
        pytest.param(vgg19, "fc", "adamw", marks=pytest.mark.exhaustive),
        (thin_vgg19, "fc", "adamw"),
        (thin_vgg19, "full", "sgd"),
    ],
)
def test_three_steps_equal_the_plain_pytorch_loop(
    network: Callable[..., VGG],
    batches: list[tuple[Tensor, Tensor]],
    strategy: Strategy,
    optimizer_name: Literal["adamw", "sgd"],
) -> None:
    torch.manual_seed(3)
    pretrained = network(weights=None)  # stands for the ImageNet weights: 1000 classes
    plain, ours = copy.deepcopy(pretrained), copy.deepcopy(pretrained)
    torch.manual_seed(11)  # the new head and the dropout masks
    expected = plain_loop(plain, strategy, optimizer_name, batches)
    torch.manual_seed(11)
    actual = our_loop(ours, strategy, optimizer_name, batches)

    assert actual == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 3  # the weights moved between the steps
    for (name, a), b in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0, msg=name)
    if strategy == "fc":
        for name, tensor in pretrained.features.state_dict().items():
            assert torch.equal(ours.features.state_dict()[name], tensor), name  # bit for bit


class Tiny(nn.Module):
    """Stands for FineTuner with four weights instead of 140 million."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.model = nn.Linear(2, outputs)
        self.modes: list[bool] = []

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        self.modes.append(self.training)
        result: Tensor = self.model(x)
        return result


def tiny_trainer(tiny: Tiny, rate: float = 1.0, **options: Any) -> Trainer:
    optimizer = SGD([{"params": list(tiny.parameters()), "lr": rate, "base_lr": rate, "name": "x"}])
    defaults: dict[str, Any] = {"objective": Objective(), "factor": lambda step: 1.0}
    return Trainer(
        make_accelerator("cpu", "no"),
        tiny,  # type: ignore[arg-type]
        nn.Identity(),
        optimizer,
        **(defaults | options),
    )


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_loss_that_is_no_number_stops_before_the_step_and_names_the_place(value: float) -> None:
    tiny = Tiny()
    before = copy.deepcopy(tiny.state_dict())
    trainer = tiny_trainer(tiny, names=lambda index: f"photos/{index}.jpg")
    state = TrainState(epoch=3, batch=6)
    bad = as_batch(torch.full((2, 2), value), torch.tensor([0, 1]))
    with pytest.raises(TrainingError) as caught:
        trainer.step(bad, state)
    message = str(caught.value)
    for words in ("the loss is nan in epoch 3, batch 7", "photos/0.jpg, photos/1.jpg"):
        assert words in message
    assert all(torch.equal(before[name], tiny.state_dict()[name]) for name in before)
    assert state == TrainState(epoch=3, batch=6)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_fused_optimizer_skips_a_step_whose_loss_is_no_number(
    optimizer: Literal["adamw", "sgd"],
) -> None:
    """It is given the step before the loss is looked at."""
    tiny = Tiny()
    group = ParameterGroup("model", list(tiny.parameters()), 0.1)
    fused = make_optimizer([group], optimizer, weight_decay=0.01, momentum=0.9, device=CPU)
    trainer = Trainer(
        make_accelerator("cpu", "no"),
        tiny,  # type: ignore[arg-type]
        nn.Identity(),
        fused,
        objective=Objective(),
        factor=lambda step: 1.0,
    )
    state = TrainState()
    good = as_batch(torch.ones(2, 2), torch.tensor([0, 1]))
    trainer.step(good, state)
    before = copy.deepcopy((tiny.state_dict(), fused.state_dict()["state"], state))
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1, batch 2"):
        trainer.step(as_batch(torch.full((2, 2), math.inf), torch.tensor([0, 1])), state)
    after = (tiny.state_dict(), fused.state_dict()["state"], state)
    torch.testing.assert_close(after[:2], before[:2], rtol=0, atol=0)
    assert after[2] == before[2]
    trainer.step(good, state)  # and goes on
    assert not torch.equal(tiny.model.weight, before[0]["model.weight"])


def test_stats_are_means_over_images_not_batches() -> None:
    tiny = Tiny()
    nn.init.zeros_(tiny.model.weight)
    nn.init.zeros_(tiny.model.bias)
    trainer, state = tiny_trainer(tiny, rate=0.0), TrainState()
    trainer.step(as_batch(torch.zeros(3, 2), torch.tensor([0, 0, 1])), state)
    trainer.step(as_batch(torch.zeros(1, 2), torch.tensor([1])), state)
    assert state.stats.loss == pytest.approx(math.log(2))
    assert state.stats.accuracy == 0.5  # argmax of a tie is class 0
    assert (state.stats.images, state.batch, state.step) == (4, 2, 2)


def test_train_and_eval_modes() -> None:
    tiny = Tiny()
    batch = as_batch(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))
    accelerator = make_accelerator("cpu", "no")
    predict(accelerator, VGG19, tiny, nn.Identity(), [batch])
    tiny_trainer(tiny).step(batch, TrainState())
    predict(accelerator, VGG19, tiny, nn.Identity(), [batch])
    assert tiny.modes == [False, True, False]


INPUTS = torch.tensor([[1.0, -1], [0.5, 2], [-1, 0.25], [2, 1], [0, 1]])
TARGETS = torch.tensor([0, 1, 1, 0, 1])


def one_step(rate: float = 0.5, **options: Any) -> Tensor:
    """The weights after a step over five inputs, from a fixed start."""
    torch.manual_seed(0)
    tiny = Tiny()
    tiny_trainer(tiny, rate, **options).step(as_batch(INPUTS, TARGETS), TrainState())
    return tiny.model.weight.detach()


def start() -> nn.Linear:
    torch.manual_seed(0)
    return Tiny().model


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 3.0])])
def test_pieces_give_the_gradient_of_the_whole_batch(size: int, weights: Tensor | None) -> None:
    objective = Objective(label_smoothing=0.1, class_weights=weights)
    whole = one_step(objective=objective)
    torch.testing.assert_close(one_step(objective=objective, micro_batch_size=size), whole)


def test_class_weights_and_smoothing_are_pytorchs_loss() -> None:
    weights = torch.tensor([0.5, 2.0])
    layer = start()
    loss = nn.functional.cross_entropy(layer(INPUTS), TARGETS, weight=weights, label_smoothing=0.2)
    loss.backward()
    assert layer.weight.grad is not None
    expected = layer.weight.detach() - 0.5 * layer.weight.grad
    actual = one_step(objective=Objective(label_smoothing=0.2, class_weights=weights))
    # PyTorch divides the smoothing by the targets' weights as well, as the sum of losses is here.
    torch.testing.assert_close(actual, expected)


def test_class_weights_change_the_loss_as_by_hand() -> None:
    logits, targets = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    objective = Objective(class_weights=torch.tensor([1.0, 3.0]))
    total = objective.normalizer(targets, torch.ones(2))
    by_hand = (1 * math.log(2) + 3 * math.log(1 + math.exp(2))) / (1 + 3)
    assert float(objective.per_sample_loss(logits, targets).sum() / total) == pytest.approx(by_hand)


def test_gradient_is_clipped_to_the_norm() -> None:
    moved = one_step(rate=1.0, clip_norm=0.01) - start().weight.detach()
    free = one_step(rate=1.0) - start().weight.detach()
    assert moved.norm() < 0.0101 < free.norm()


def test_ema_equals_the_one_computed_by_hand() -> None:
    torch.manual_seed(0)
    tiny = Tiny()
    trainer, state = tiny_trainer(tiny, 0.5, ema_decay=0.9), TrainState()
    average = tiny.model.weight.detach().clone()
    for step in range(4):
        trainer.step(as_batch(INPUTS, TARGETS), state)
        weight = tiny.model.weight.detach()
        # AveragedModel starts as a copy of the weights after the first step.
        average = weight.clone() if step == 0 else 0.9 * average + 0.1 * weight
    kept = trainer.inference_model
    assert isinstance(kept, nn.Linear)
    torch.testing.assert_close(kept.weight.detach(), average)
    assert not torch.allclose(kept.weight, tiny.model.weight)


def test_auto_batch_halves_the_pieces_until_they_fit_and_keeps_the_gradient() -> None:
    sizes: list[int] = []

    class Small(Tiny):
        def forward(self, x: Tensor, start: int = 0) -> Tensor:
            sizes.append(len(x))
            if len(x) > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().forward(x)

    torch.manual_seed(0)
    small = Small()
    trainer = tiny_trainer(small, 0.5, auto_batch=True)
    trainer.step(as_batch(INPUTS, TARGETS), TrainState())
    assert sizes == [5, 3, 2, 2, 1]
    assert trainer.micro_batch_size == 2
    torch.testing.assert_close(small.model.weight.detach(), one_step())


def test_without_auto_batch_out_of_memory_is_an_error() -> None:
    class Full(Tiny):
        def forward(self, x: Tensor, start: int = 0) -> Tensor:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(RuntimeError, match="out of memory"):
        tiny_trainer(Full()).step(as_batch(INPUTS, TARGETS), TrainState())


def test_rates_follow_the_factor_each_from_its_own() -> None:
    tiny = Tiny()
    optimizer = SGD(
        [
            {"params": [tiny.model.weight], "lr": 1.0, "base_lr": 1.0, "name": "a"},
            {"params": [tiny.model.bias], "lr": 0.1, "base_lr": 0.1, "name": "b"},
        ]
    )
    trainer = Trainer(
        make_accelerator("cpu", "no"),
        tiny,  # type: ignore[arg-type]
        nn.Identity(),
        optimizer,
        objective=Objective(),
        factor=lambda step: 0.5**step,
    )
    state = TrainState()
    for step in range(3):
        trainer.step(as_batch(INPUTS, TARGETS), state)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.5**step, 0.1 * 0.5**step])
