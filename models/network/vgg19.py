"""Build VGG-19, load weights into it, replace its head.

torchvision's VGG-19 (Simonyan & Zisserman 2014, configuration E) is `features` (sixteen 3x3
convolutions), `avgpool` (to 7x7) and `classifier`: FC1 `[0]`, FC2 `[3]` and the head `[6]`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models import VGG, vgg19

from models.network.weights import HEAD_WEIGHT, WeightsError, blamed, line, read_weights

HEAD = 6  # of `HEAD_WEIGHT`


def build(weights: str, num_classes: int, dropout: float = 0.5) -> VGG:
    """A VGG-19 with the chosen weights and a new head for `num_classes`.

    Args:
        weights: `imagenet`, `none`, or the path of a `.safetensors` or `.pth` state dict. With
            `none` the caller goes on to `initialise_from_data`.
        dropout: probability after FC1 and FC2; 0.5 is VGG's own.

    Raises:
        WeightsError: no such file, no network, not the weights of a VGG-19, or NaN in them.
    """
    if weights == "none":
        model = vgg19(weights=None)
    else:
        state = read_weights(weights)
        with blamed(weights):
            model = _from_state(state)
    for module in model.classifier:
        if isinstance(module, nn.Dropout):
            module.p = dropout
    replace_head(model, num_classes)
    return model


def empty(num_classes: int) -> VGG:
    """A VGG-19 of the right shapes on the meta device, to receive a checkpoint (`assign=True`)."""
    with torch.device("meta"):
        return vgg19(weights=None, num_classes=num_classes, init_weights=False)


def replace_head(model: VGG, num_classes: int) -> None:
    """Put a new `nn.Linear` in the place of `classifier[6]`; the rest keeps its weights.

    Done even when the old head happens to have `num_classes` outputs: its classes are others.
    """
    old = model.classifier[HEAD]
    assert isinstance(old, nn.Linear)
    model.classifier[HEAD] = nn.Linear(old.in_features, num_classes)


@torch.no_grad()
def initialise_from_data(model: VGG, inputs: Tensor) -> None:
    """Scale each convolution so that its output has unit variance on `inputs` (in place).

    The step "single pass of variance normalisation" of LSUV (Mishkin & Matas 2015,
    arXiv:1511.06422), after torchvision's Kaiming initialisation. Without it, sixteen layers
    and no batch norm stay near chance for the first epochs.

    Args:
        inputs: float32[N,3,S,S], normalised. 64 training images are enough.
    """

    def rescale(module: nn.Module, _: object, output: Tensor) -> Tensor:
        assert isinstance(module, nn.Conv2d)
        deviation = output.std().clamp_min(torch.finfo(output.dtype).eps)
        module.weight /= deviation
        return output / deviation  # biases are zero here, so this is the rescaled layer's output

    hooks = [
        layer.register_forward_hook(rescale)
        for layer in model.features
        if isinstance(layer, nn.Conv2d)
    ]
    try:
        model.features(inputs)
    finally:
        for hook in hooks:
            hook.remove()


def _from_state(state: Mapping[str, Tensor]) -> VGG:
    """A VGG-19 with these weights; its head has as many classes as the file's."""
    head = state[HEAD_WEIGHT]
    try:
        model = empty(num_classes=len(head))
        model.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError) as error:
        raise WeightsError(f"not the weights of a torchvision VGG-19: {line(error)}") from None
    return model.float()
