from __future__ import annotations

import pytest
import torch
from torchvision.models import VGG

from models.freezing import Strategy, apply_strategy, parameter_groups
from models.vgg19 import empty
from training.engine import make_optimizer

FC_NAMES = {f"classifier.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")}


@pytest.fixture
def model() -> VGG:
    return empty(num_classes=5)


def trainable(model: VGG) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_fc_trains_fc1_fc2_and_the_head_only(model: VGG) -> None:
    apply_strategy(model, "fc")
    assert trainable(model) == FC_NAMES


def test_full_trains_everything(model: VGG) -> None:
    apply_strategy(model, "fc")
    apply_strategy(model, "full")
    assert trainable(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("strategy", ["fc", "full"])
def test_groups_hold_the_trainable_parameters_once_at_their_rates(
    model: VGG, strategy: Strategy
) -> None:
    apply_strategy(model, strategy)
    head, rest = parameter_groups(model, head_learning_rate=0.1, pretrained_learning_rate=0.01)
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    assert [names[id(p)] for p in head.parameters] == ["classifier.6.weight", "classifier.6.bias"]
    assert (head.learning_rate, rest.learning_rate) == (0.1, 0.01)
    grouped = [names[id(p)] for p in (*head.parameters, *rest.parameters)]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trainable(model)


def test_frozen_parameters_never_enter_the_optimizer(model: VGG) -> None:
    apply_strategy(model, "fc")
    groups = parameter_groups(model, head_learning_rate=0.1, pretrained_learning_rate=0.01)
    optimizer = make_optimizer(
        groups, "sgd", weight_decay=0.0, momentum=0.9, device=torch.device("cpu")
    )
    inside = {id(p) for group in optimizer.param_groups for p in group["params"]}
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}
    assert len(inside) == len(FC_NAMES)
    assert not inside & frozen
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
