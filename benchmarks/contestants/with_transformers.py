"""The same job with the Hugging Face Trainer, its defaults and the same torchvision model."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from benchmarks.contestants import model as common
from benchmarks.contestants.job import Job, Outcome


class Labelled(nn.Module):
    """The Trainer wants a model that computes its loss."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.network(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def collate(items: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    images, labels = zip(*items, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def correct(prediction: Any) -> dict[str, float]:
    logits, labels = prediction
    return {"correct": float(np.sum(logits.argmax(axis=1) == labels))}


def main() -> None:
    job = Job.read(sys.argv[1])
    train_set, val_set = common.datasets(job)
    torch.manual_seed(job.seed)
    trainer = Trainer(
        Labelled(common.model(job, len(train_set.classes))),
        TrainingArguments(
            output_dir="transformers",
            num_train_epochs=job.epochs,
            per_device_train_batch_size=job.batch_size,
            per_device_eval_batch_size=job.batch_size,
            learning_rate=job.learning_rate,
            weight_decay=job.weight_decay,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            seed=job.seed,
            use_cpu=True,
        ),
        data_collator=collate,
        train_dataset=train_set,
        eval_dataset=val_set,
        compute_metrics=correct,
    )
    trainer.train()
    scores = trainer.evaluate()
    trainer.save_model("transformers/final")
    Outcome(scores["eval_loss"], int(scores["eval_correct"]), len(val_set)).write(sys.argv[2])


if __name__ == "__main__":
    main()
