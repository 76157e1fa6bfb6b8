from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torchvision.models import VGG, VGG19_Weights, vgg19

from models.freezing import Strategy, apply_strategy, parameter_groups
from models.spec import Preprocessing
from models.vgg19 import Normalize, replace_head
from training.engine import (
    TrainingError,
    choose_device,
    make_optimizer,
    make_schedule,
    predict,
    train_epoch,
)

CPU = torch.device("cpu")
CLASSES = 3
# The defaults with pretrained weights. AdamW's first steps are nearly sign(gradient), so at larger
# rates the rounding of its fused kernel (here) against the plain one (there) shows in the loss.
HEAD_RATE, REST_RATE = 1e-4, 1e-5


@pytest.fixture(scope="module")
def pretrained() -> VGG:
    """Stands for the ImageNet weights: a VGG-19 of 1000 classes with random ones."""
    torch.manual_seed(3)
    return vgg19(weights=None)


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
    model.classifier[6] = nn.Linear(4096, CLASSES)
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


def our_loop(
    model: VGG,
    strategy: Strategy,
    optimizer_name: Literal["adamw", "sgd"],
    batches: list[tuple[Tensor, Tensor]],
) -> list[float]:
    replace_head(model, CLASSES)
    apply_strategy(model, strategy)
    groups = parameter_groups(
        model, head_learning_rate=HEAD_RATE, pretrained_learning_rate=REST_RATE
    )
    optimizer = make_optimizer(groups, optimizer_name, weight_decay=0.01, momentum=0.9, device=CPU)
    schedule = make_schedule(optimizer, "constant", len(batches))
    normalize = Normalize(Preprocessing(image_size=32, resize_size=32))
    sums: list[float] = [0.0]
    train_epoch(
        model,
        normalize,
        batches,
        optimizer,
        schedule,
        CPU,
        on_batch=lambda size, stats: sums.append(stats.loss_sum),
    )
    return [(after - before) / 4 for before, after in pairwise(sums)]


@pytest.mark.parametrize(
    ("strategy", "optimizer_name"), [("full", "adamw"), ("fc", "adamw"), ("full", "sgd")]
)
def test_three_steps_equal_the_plain_pytorch_loop(
    pretrained: VGG,
    batches: list[tuple[Tensor, Tensor]],
    strategy: Strategy,
    optimizer_name: Literal["adamw", "sgd"],
) -> None:
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


class Linear(nn.Module):
    """Four weights instead of 140 million, for what doesn't depend on the network."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.seen_training: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen_training.append(self.training)
        result: Tensor = self.layer(x)
        return result


def run_epoch(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    optimizer = SGD(model.parameters(), lr=1.0)
    schedule = make_schedule(optimizer, "constant", 1)
    train_epoch(model, nn.Identity(), batches, optimizer, schedule, CPU)


def test_a_loss_that_is_no_number_stops_before_the_step() -> None:
    model = Linear()
    before = copy.deepcopy(model.state_dict())
    bad = [(torch.full((1, 2), math.inf), torch.tensor([0]))]
    with pytest.raises(TrainingError, match=r"the loss is nan .* lower the learning rate"):
        run_epoch(model, bad)
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in before)


def test_train_and_eval_modes() -> None:
    model = Linear()
    batch = [(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))]
    predict(model, nn.Identity(), batch, CPU)
    run_epoch(model, batch)
    predict(model, nn.Identity(), batch, CPU)
    assert model.seen_training == [False, True, False]


def test_stats_are_means_over_images_not_batches() -> None:
    model = Linear()
    nn.init.zeros_(model.layer.weight)
    nn.init.zeros_(model.layer.bias)
    optimizer = SGD(model.parameters(), lr=0.0)
    batches = [
        (torch.zeros(3, 2), torch.tensor([0, 0, 1])),
        (torch.zeros(1, 2), torch.tensor([1])),
    ]
    schedule = make_schedule(optimizer, "constant", 2)
    stats = train_epoch(model, nn.Identity(), batches, optimizer, schedule, CPU)
    assert stats.loss == pytest.approx(math.log(2))
    assert stats.accuracy == 0.5  # argmax of a tie is class 0
    assert stats.images == 4


def test_predictions_keep_the_order_of_the_batches() -> None:
    model = nn.Identity()
    batches = [(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([7, 8]))] * 2
    logits, targets = predict(model, nn.Identity(), batches, CPU)
    assert logits.tolist() == [[1, 2], [3, 4], [1, 2], [3, 4]]
    assert targets.tolist() == [7, 8, 7, 8]
    assert not logits.requires_grad


def test_cosine_schedule_by_hand() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = SGD([{"params": [weight], "lr": 0.2}])
    schedule = make_schedule(optimizer, "cosine", total_steps=4)
    rates = []
    for _ in range(5):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    half = math.sqrt(0.5)
    assert rates == pytest.approx([0.2, 0.1 * (1 + half), 0.1, 0.1 * (1 - half), 0.0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what it asks for")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(TrainingError, match="device is 'cuda', which PyTorch doesn't find here"):
        choose_device("cuda")


def test_auto_takes_what_is_there() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type in (expected, "mps")
