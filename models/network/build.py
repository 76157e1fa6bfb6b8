"""Build a network, load weights into it, replace its head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.network.architecture import Architecture
from models.network.weights import WeightsError, blamed, line, read_weights

# Of the network that gets random weights: as many as ImageNet's, before the head is replaced.
_CLASSES = 1000


def build(
    architecture: Architecture, weights: str, num_classes: int, dropout: float = 0.5
) -> nn.Module:
    """A network with the chosen weights and a new head for `num_classes`.

    Args:
        weights: `imagenet`, `none`, or the path of a `.safetensors` or `.pth` state dict. With
            `none` the caller goes on to `initialise_from_data`.
        dropout: probability of all its dropout layers; 0.5 is VGG's own, after FC1 and FC2.

    Raises:
        WeightsError: no such file, no network, not the weights of this one, or NaN in them.
    """
    if weights == "none":
        model = architecture.make(_CLASSES)
    else:
        state = read_weights(architecture, weights)
        with blamed(architecture, weights):
            model = _from_state(architecture, state)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    replace_head(architecture, model, num_classes)
    return model


def replace_head(architecture: Architecture, model: nn.Module, num_classes: int) -> None:
    """Put a new `nn.Linear` in the place of the head; the rest keeps its weights.

    Done even when the old head happens to have `num_classes` outputs: its classes are others.
    """
    old = model.get_submodule(architecture.head)
    assert isinstance(old, nn.Linear)
    model.set_submodule(architecture.head, nn.Linear(old.in_features, num_classes))


@torch.no_grad()
def initialise_from_data(architecture: Architecture, model: nn.Module, inputs: Tensor) -> None:
    """Scale each convolution so that its output has unit variance on `inputs` (in place).

    The step "single pass of variance normalisation" of LSUV (Mishkin & Matas 2015,
    arXiv:1511.06422), after torchvision's Kaiming initialisation. Without it, VGG-19's sixteen
    layers without batch norm stay near chance for the first epochs.

    Args:
        inputs: float32[N,3,S,S], normalised. 64 training images are enough.
    """

    def rescale(module: nn.Module, _: object, output: Tensor) -> Tensor:
        assert isinstance(module, nn.Conv2d)
        deviation = output.std().clamp_min(torch.finfo(output.dtype).eps)
        module.weight /= deviation
        return output / deviation  # biases are zero here, so this is the rescaled layer's output

    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    hooks = [convolution.register_forward_hook(rescale) for convolution in convolutions]
    try:
        architecture.run(model, inputs, stop=architecture.index(model, architecture.pooling))
    finally:
        for hook in hooks:
            hook.remove()


def _from_state(architecture: Architecture, state: Mapping[str, Tensor]) -> nn.Module:
    """A network with these weights; its head has as many classes as the file's."""
    head = state[architecture.head_weight]
    try:
        model = architecture.empty(num_classes=len(head))
        model.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError) as error:
        raise WeightsError(
            f"not the weights of a torchvision {architecture.title}: {line(error)}"
        ) from None
    return model.float()
