"""Model and data sets for the contestants that only bring a loop of their own."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.models import VGG, VGG19_Weights, vgg19

from benchmarks.contestants.job import Job


def datasets(job: Job) -> tuple[ImageFolder, ImageFolder]:
    """Training and validation images through torchvision's preset."""
    transform = VGG19_Weights.IMAGENET1K_V1.transforms(
        crop_size=job.image_size, resize_size=job.image_size
    )
    return ImageFolder(f"{job.data}/train", transform), ImageFolder(f"{job.data}/val", transform)


def model(job: Job, num_classes: int) -> VGG:
    """VGG-19 with a new head; what the strategy doesn't train is frozen."""
    network = vgg19()
    network.load_state_dict(torch.load(job.weights, weights_only=True))
    if job.strategy == "fc":
        network.features.requires_grad_(False)
    network.classifier[6] = nn.Linear(4096, num_classes)
    return network
