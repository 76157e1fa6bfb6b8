from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VGG, vgg19

from models.network.strategies import (
    FineTuner,
    StrategyError,
    layer_learning_rates,
    match_layers,
    parameter_groups,
    trainable_layers,
)
from models.network.unfreezing import Strategy, default_unfreeze_epochs
from models.network.vgg19 import VGG19
from training.loop.optimizer import make_optimizer

NAMES = list(VGG19.layers(VGG19.empty(num_classes=2)))
FC = {"classifier.0", "classifier.3", "classifier.6"}


@pytest.mark.parametrize(
    ("strategy", "expected"), [("head", {VGG19.head}), ("fc", FC), ("full", set(NAMES))]
)
def test_strategies(strategy: Strategy, expected: set[str]) -> None:
    assert trainable_layers(VGG19, strategy) == expected


def test_gradual_unfreezes_exactly_one_block_more_at_each_epoch_named() -> None:
    unfrozen = {
        epoch: trainable_layers(VGG19, "gradual", epoch=epoch, unfreeze_epochs=(3, 4, 9))
        for epoch in range(1, 11)
    }
    assert unfrozen[1] == unfrozen[2] == FC
    assert unfrozen[3] - unfrozen[2] == set(VGG19.blocks[0])
    assert unfrozen[4] - unfrozen[3] == set(VGG19.blocks[1])
    assert unfrozen[8] == unfrozen[4]
    assert unfrozen[9] - unfrozen[8] == set(VGG19.blocks[2])
    assert unfrozen[10] == unfrozen[9]


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, ()), (2, (2,)), (6, (2, 3, 4, 5, 6)), (12, (3, 5, 7, 9, 11))]
)
def test_default_unfreeze_epochs(epochs: int, expected: tuple[int, ...]) -> None:
    assert default_unfreeze_epochs(epochs, blocks=5) == expected


def test_patterns() -> None:
    assert match_layers(["features.3?"], NAMES) == {"features.30", "features.32", "features.34"}
    assert trainable_layers(VGG19, "head", unfreeze=["*.0"]) == {
        VGG19.head,
        "features.0",
        "classifier.0",
    }
    with pytest.raises(StrategyError, match=r"'features\.1' names no layer; the layers are feat"):
        match_layers(["features.1"], NAMES)


def test_layer_wise_decay_by_hand() -> None:
    rates = layer_learning_rates(NAMES, head=1.0, pretrained=0.1, decay=0.5)
    assert rates["classifier.6"] == 1.0
    assert rates["classifier.3"] == 0.1
    assert rates["classifier.0"] == 0.05
    assert rates["features.34"] == 0.025
    assert rates["features.0"] == pytest.approx(0.1 * 0.5**17)


@pytest.mark.parametrize("strategy", ["head", "fc", "full"])
def test_the_optimizer_gets_the_layers_that_train_and_nothing_else(strategy: Strategy) -> None:
    model = VGG19.empty(num_classes=5)
    rates = layer_learning_rates(NAMES, head=1.0, pretrained=0.1, decay=0.9)
    wanted = trainable_layers(VGG19, strategy)
    optimizer = make_optimizer(
        parameter_groups(VGG19.layers(model), wanted, rates),
        "sgd",
        weight_decay=0.0,
        momentum=0.9,
        device=torch.device("cpu"),
    )
    names = {id(p): name for name, p in model.named_parameters()}
    inside = {names[id(p)] for group in optimizer.param_groups for p in group["params"]}
    assert inside == {f"{layer}.{kind}" for layer in wanted for kind in ("weight", "bias")}
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {
        layer: rates[layer] for layer in wanted
    }


@pytest.fixture(scope="module")
def model() -> VGG:
    torch.manual_seed(0)
    network: VGG = vgg19(weights=None, num_classes=3)
    return network


class TestFineTuner:
    def tuner(self, model: VGG, trainable: Sequence[str]) -> FineTuner:
        tuner = FineTuner(VGG19, copy.copy(model))
        tuner.set_trainable(trainable)
        return tuner.train()

    def test_answers_as_the_network_does(self, model: VGG) -> None:
        inputs = torch.randn(2, 3, 32, 32)
        tuner = self.tuner(model, [VGG19.head]).eval()
        with torch.no_grad():
            assert torch.equal(tuner(inputs), model.eval()(inputs))

    @pytest.mark.parametrize("trainable", [list(VGG19.layer_names), ["features.28", VGG19.head]])
    def test_convolutions_in_bf16_train_float32_weights(
        self, model: VGG, trainable: Sequence[str]
    ) -> None:
        """As a processor without its instructions emulates it."""
        inputs = torch.randn(2, 3, 32, 32)

        def answer(*, bf16: bool) -> tuple[Tensor, dict[str, torch.dtype]]:
            tuner = FineTuner(VGG19, model, bf16_convolutions=bf16)
            tuner.set_trainable(trainable)
            dtypes: dict[str, torch.dtype] = {}

            def note(name: str, _: nn.Module, __: object, output: Tensor) -> None:
                dtypes[name] = output.dtype

            hooks = [
                layer.register_forward_hook(partial(note, name))
                for name, layer in VGG19.layers(model).items()
            ]
            logits: Tensor = tuner.eval()(inputs)
            for hook in hooks:
                hook.remove()
            return logits, dtypes

        expected, dtypes = answer(bf16=False)
        assert set(dtypes.values()) == {torch.float32}
        logits, dtypes = answer(bf16=True)
        assert dtypes == {
            name: torch.bfloat16 if name.startswith("features") else torch.float32
            for name in VGG19.layer_names
        }
        error = (logits - expected).norm() / expected.norm()
        assert 1e-5 < error < 2e-2
        logits.sum().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad(set_to_none=True)
        model.requires_grad_(True)
        assert {name.rpartition(".")[0] for name in gradients} == set(trainable)
        assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}

    def test_features_go_on_in_bf16_from_where_they_begin(self, model: VGG) -> None:
        tuner = FineTuner(VGG19, model, bf16_convolutions=True)
        tuner.set_trainable(["features.28", VGG19.head])
        tuner.eval()
        features = torch.randn(2, *VGG19.shape_before(tuner.boundary, 32))
        plain = FineTuner(VGG19, model)
        plain.set_trainable(["features.28", VGG19.head])
        with torch.no_grad():
            rounded, exact = (t.eval()(features, tuner.boundary) for t in (tuner, plain))
        model.requires_grad_(True)
        assert 1e-5 < (rounded - exact).norm() / exact.norm() < 2e-2

    @pytest.mark.parametrize(
        ("trainable", "boundary"),
        [([VGG19.head], "classifier.6"), (FC, "classifier.0"), (["features.28"], "features.28")],
    )
    def test_the_frozen_prefix_runs_in_eval_mode_and_keeps_no_activations(
        self, model: VGG, trainable: Sequence[str], boundary: str
    ) -> None:
        tuner = self.tuner(model, trainable)
        sequence = VGG19.sequence(tuner.model)
        assert sequence[tuner.boundary][0] == boundary
        modes = {name: module.training for name, module in sequence if name != "flatten"}
        frozen_names = {name for name, _ in sequence[: tuner.boundary]}
        assert {name for name, training in modes.items() if not training} == (
            frozen_names - {"flatten"}
        )

        graph: list[bool] = []
        hooks = [
            module.register_forward_hook(lambda _, __, out: graph.append(out.requires_grad))
            for name, module in sequence
            if name != "flatten"
        ]
        kept = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal kept
            if not isinstance(tensor, nn.Parameter):
                kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = tuner(torch.randn(2, 3, 32, 32)).sum()
        for hook in hooks:
            hook.remove()
        frozen = sum(name != "flatten" for name, _ in sequence[: tuner.boundary])
        assert graph == [False] * frozen + [True] * (len(graph) - frozen)
        loss.backward()
        if trainable == [VGG19.head]:
            assert kept == 2 * 4096  # the head's input, and not one activation below it

    def test_only_what_trains_gets_a_gradient(self, model: VGG) -> None:
        model.zero_grad(set_to_none=True)
        tuner = self.tuner(model, ["features.34", VGG19.head])
        tuner(torch.randn(2, 3, 32, 32)).sum().backward()
        with_gradient = {
            name
            for name, module in VGG19.layers(tuner.model).items()
            if module.weight.grad is not None
        }
        assert with_gradient == {"features.34", VGG19.head}


def test_unfreezing_more_moves_the_boundary() -> None:
    tuner = FineTuner(VGG19, VGG19.empty(num_classes=2))
    tuner.set_trainable(FC)
    before = tuner.boundary
    tuner.set_trainable(FC | set(VGG19.blocks[0]))
    assert VGG19.sequence(tuner.model)[tuner.boundary][0] == "features.28"
    assert tuner.boundary < before
