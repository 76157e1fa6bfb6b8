"""The loop that everybody writes, after PyTorch's transfer-learning tutorial: freeze, replace the
head, and run every image through the whole network in every epoch."""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import VGG19_Weights, vgg19

from benchmarks.contestants.job import Job, Outcome


def main(*, bf16: bool = False) -> None:
    """`bf16`: with the two changes that are known to make it faster on a CPU: autocast, and
    convolutions in channels-last layout."""
    job = Job.read(sys.argv[1])
    layout = torch.channels_last if bf16 else torch.preserve_format
    torch.manual_seed(job.seed)
    transform = VGG19_Weights.IMAGENET1K_V1.transforms(
        crop_size=job.image_size, resize_size=job.image_size
    )
    train_set = ImageFolder(f"{job.data}/train", transform)
    val_set = ImageFolder(f"{job.data}/val", transform)
    train_loader = DataLoader(train_set, batch_size=job.batch_size, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=job.batch_size)

    model = vgg19()
    model.load_state_dict(torch.load(job.weights, weights_only=True))
    if job.strategy == "fc":
        for parameter in model.parameters():
            parameter.requires_grad = False
        for index in (0, 3):
            for parameter in model.classifier[index].parameters():
                parameter.requires_grad = True
    model.classifier[6] = nn.Linear(4096, len(train_set.classes))
    model = model.to(memory_format=layout)

    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=job.learning_rate,
        weight_decay=job.weight_decay,
    )
    for epoch in range(job.epochs):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = criterion(model(images.to(memory_format=layout)), labels)
            loss.backward()
            optimizer.step()

        model.eval()
        val_loss, correct = 0.0, 0
        with torch.no_grad():
            for images, labels in val_loader:
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    outputs = model(images.to(memory_format=layout)).float()
                val_loss += criterion(outputs, labels).item() * len(labels)
                correct += int((outputs.argmax(dim=1) == labels).sum())
        print(
            f"epoch {epoch + 1}: loss {val_loss / len(val_set):.3f}, {correct} correct", flush=True
        )
    torch.save(model.state_dict(), "model.pth")
    Outcome(val_loss / len(val_set), correct, len(val_set)).write(sys.argv[2])


if __name__ == "__main__":
    main()
