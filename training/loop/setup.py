"""What a run begins with: the model, its optimizer, and which layer trains when."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from models.network.build import build, initialise_from_data
from models.network.strategies import FineTuner, parameter_groups, trainable_layers
from training.data.augment import BatchMixing
from training.data.sampling import balanced_class_weights, derive_seed
from training.loop.context import TrainContext
from training.loop.layer_table import LayerRow
from training.loop.optimizer import make_optimizer, optimizer_group, schedule_factor
from training.loop.precision import convolutions_in_bf16, frozen_precision
from training.loop.run import BF16_CONVOLUTIONS, BF16_FROZEN
from training.loop.trainer import Objective, Trainer

# Enough for the variance estimate of `initialise_from_data`.
_INITIALISATION_IMAGES = 64


def set_up(
    context: TrainContext, *, initial_weights: bool = True
) -> tuple[Trainer, list[LayerRow]]:
    """The model with its optimizer, ready for the first epoch, and which layer trains how.

    Args:
        initial_weights: false where the weights come from a saved state, and those that the
            configuration names need not exist any more.
    """
    config, data, architecture = context.config, context.data, context.architecture
    torch.manual_seed(config.seed)
    weights = config.weights if initial_weights else "none"
    model = build(architecture, weights, len(data.labels), dropout=config.dropout)
    model.to(context.accelerator.device)
    if context.accelerator.device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    if weights == "none" and initial_weights:
        _initialise(model, context)
    # Each process draws its own dropout masks; the weights above are the same in all.
    torch.manual_seed(derive_seed(config.seed, "dropout", context.accelerator.process_index))
    tuner = FineTuner(architecture, model, bf16_convolutions=trains_in_bf16(context))
    tuner.set_trainable(trainable_in(context, epoch=1))
    train = context.dataset("train")
    class_weights = (
        balanced_class_weights(train.targets, len(data.labels)).to(context.accelerator.device)
        if config.class_weights == "balanced"
        else None
    )
    steps = config.epochs * len(context.epoch_batches(1))
    trainer = Trainer(
        context.accelerator,
        tuner,
        context.normalize,
        make_optimizer(
            parameter_groups(
                architecture.layers(model),
                trainable_in(context, epoch=1),
                context.learning_rates(),
            ),
            config.optimizer,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            device=context.accelerator.device,
        ),
        objective=Objective(config.label_smoothing, class_weights),
        factor=partial(
            schedule_factor,
            total_steps=steps,
            warmup_steps=round(steps * config.warmup_fraction),
            kind=config.schedule,
        ),
        mix=BatchMixing(len(data.labels), mixup=config.mixup, cutmix=config.cutmix),
        clip_norm=config.clip_norm,
        ema_decay=config.ema_decay,
        micro_batch_size=config.micro_batch_size,
        auto_batch=config.auto_batch,
        compile_model=config.compile,
        names=context.file_name,
    )
    return trainer, _layer_rows(model, context)


def unfreeze(trainer: Trainer, context: TrainContext, epoch: int) -> None:
    """Let the layers train that are to train in this epoch, and tell which are new."""
    wanted = trainable_in(context, epoch)
    present = {group["name"] for group in trainer.optimizer.param_groups}
    rates = context.learning_rates()
    layers = context.architecture.layers(trainer.model.model)
    new = parameter_groups(layers, wanted - present, rates)
    if not new:
        return
    trainer.model.set_trainable(wanted)
    for group in new:
        trainer.optimizer.add_param_group(optimizer_group(group))
    trainer.prepare()
    context.reporter.say(f"epoch {epoch}: unfrozen {', '.join(group.name for group in new)}")


def trainable_in(context: TrainContext, epoch: int) -> set[str]:
    config = context.config
    assert config.strategy != "auto"  # see `check_decided`
    return trainable_layers(
        context.architecture,
        config.strategy,
        epoch=epoch,
        unfreeze_epochs=config.unfreeze_epochs or (),
        unfreeze=config.unfreeze,
    )


def trains_in_bf16(context: TrainContext) -> bool:
    """Whether there are convolutions that train, and they are computed in bfloat16, unlike the
    other layers."""
    config = context.config
    trainable = trainable_in(context, config.epochs)  # nothing that is unfrozen freezes again
    return not trainable.issubset(context.architecture.fully_connected) and convolutions_in_bf16(
        config.mixed_precision, context.accelerator, compiled=config.compile
    )


def computed_in_bf16(context: TrainContext) -> list[str]:
    """What is, on a CPU, unlike the rest, as it is recorded. (Frozen layers are not compared when a
    run is reproduced: what they are computed in follows from the configuration and from whether the
    processor has bf16, which are.)"""
    accelerator = context.accelerator
    wanted = context.config.mixed_precision
    frozen = set(context.architecture.layer_names) - trainable_in(context, 1)
    differs = frozen_precision(wanted, accelerator) != accelerator.mixed_precision
    return [
        *([BF16_CONVOLUTIONS] if trains_in_bf16(context) else []),
        *([BF16_FROZEN] if frozen and differs else []),
    ]


def _layer_rows(model: nn.Module, context: TrainContext) -> list[LayerRow]:
    """Every layer with its size, its rate, and the epoch from which it trains (None: never)."""
    rates = context.learning_rates()
    first: dict[str, int] = {}
    for epoch in range(context.config.epochs, 0, -1):
        first |= dict.fromkeys(trainable_in(context, epoch), epoch)
    return [
        LayerRow(
            name,
            sum(parameter.numel() for parameter in module.parameters()),
            first.get(name),
            rates[name] if name in first else None,
        )
        for name, module in context.architecture.layers(model).items()
    ]


def _initialise(model: nn.Module, context: TrainContext) -> None:
    """`--weights none`: scale the convolutions on a sample of the training images."""
    dataset = context.dataset("train")
    step = max(1, len(dataset) // _INITIALISATION_IMAGES)
    indices = range(0, len(dataset), step)[:_INITIALISATION_IMAGES]
    images: Tensor = torch.stack([dataset.pixels(index) for index in indices])
    inputs = context.normalize(images.to(context.accelerator.device))
    initialise_from_data(context.architecture, model, inputs)
