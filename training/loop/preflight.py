"""What can be wrong with a configuration, told before an image is read."""

from __future__ import annotations

import difflib
from pathlib import Path

from models.network.architectures import architecture
from models.network.strategies import match_layers
from models.network.weights import WeightsError, not_weights
from training.loop.config import TrainConfig
from training.loop.config_file import ConfigError
from training.loop.paths import NAMED_WEIGHTS

_HIGHEST_RATE = 1e3  # every loss diverges far below
_MIN_STEPS = 20
# A .pth is a zip archive, or before PyTorch 1.6 a pickle; a .safetensors begins with the length of
# its header, whose first character follows.
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


def check_config(config: TrainConfig) -> None:
    """Raise UserError for what no data could mend: a network that there is none of, mistyped
    weights or layers, epochs of unfreezing that never come.

    Args:
        config: as it was given, not resolved.
    """
    network = architecture(config.network)
    check_weights(config.weights)
    match_layers(config.unfreeze, network.layer_names)
    if config.strategy == "auto" and config.unfreeze:
        raise ConfigError(
            f"unfreeze is {', '.join(config.unfreeze)}, and strategy auto finds out what to "
            "unfreeze; remove it, or choose another strategy"
        )
    _check_unfreeze_epochs(config, len(network.blocks))


def check_decided(config: TrainConfig) -> None:
    """Raise ConfigError for strategy auto, where layers have to be known that train."""
    if config.strategy == "auto":
        raise ConfigError(
            "strategy is auto, which finds out in several runs what to train; name the strategy "
            "here, such as the one that 'vgg19 probe' recommends"
        )


def check_weights(weights: str, option: str = "--weights") -> None:
    """Raise WeightsError unless it is a known word or a file that may be a state dict."""
    if weights in NAMED_WEIGHTS:
        return
    path = Path(weights)
    if not path.is_file():
        close = difflib.get_close_matches(weights.lower(), NAMED_WEIGHTS, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        what = "is a directory" if path.is_dir() else "no such file"
        raise not_weights(weights, f"{what}; {hint}", option)
    with path.open("rb") as file:
        head = file.read(9)
    is_safetensors = path.suffix == ".safetensors" and head[8:9] == b"{"
    if not (is_safetensors or head.startswith((_ZIP, _PICKLE))):
        raise WeightsError(
            f"{option} {weights}: not a state dict, its first bytes are neither those of a "
            ".safetensors nor of a .pth"
        )


def check_rates(lowest: float, highest: float, steps: int, output: Path | None = None) -> None:
    """Raise ConfigError unless a range test can go from `lowest` to `highest`."""
    if not 0 < lowest < highest <= _HIGHEST_RATE:  # also where one is not a number
        raise ConfigError(
            f"--lowest is {lowest:g} and --highest is {highest:g}; they must be above 0, rise, and "
            f"end at {_HIGHEST_RATE:g} or below"
        )
    if steps < _MIN_STEPS:
        raise ConfigError(f"--steps is {steps}, it must be {_MIN_STEPS} or more")
    if output is not None and (output.suffix.lower() != ".png" or not output.parent.is_dir()):
        raise ConfigError(
            f"--output is {output}, it must be a .png file in a directory that exists"
        )


def _check_unfreeze_epochs(config: TrainConfig, blocks: int) -> None:
    epochs = config.unfreeze_epochs
    if not epochs:
        return
    if len(epochs) > blocks:
        raise ConfigError(
            f"unfreeze_epochs is {list(epochs)}, {len(epochs)} epochs, and there are {blocks} "
            f"blocks to unfreeze; name {blocks} at most, or leave it out to spread them"
        )
    if config.strategy != "gradual":
        raise ConfigError(
            f"unfreeze_epochs is {list(epochs)}, which is for strategy gradual, and strategy is "
            f"{config.strategy}; remove it or choose gradual"
        )
    wrong = [epoch for epoch in epochs if not 1 <= epoch <= config.epochs]
    if wrong:
        raise ConfigError(
            f"unfreeze_epochs is {list(epochs)}, but the run has the epochs 1 to {config.epochs}, "
            f"so {wrong[0]} never comes; choose others, or leave it out to spread them"
        )
