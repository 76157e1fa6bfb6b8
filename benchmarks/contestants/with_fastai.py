"""The same job with fastai's Learner and its own optimizer wrapper around PyTorch's AdamW."""

from __future__ import annotations

import sys
from functools import partial

import fastai.callback.progress  # noqa: F401  gives Learner its no_bar
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.contestants import model as common
from benchmarks.contestants.job import Job, Outcome


def main() -> None:
    job = Job.read(sys.argv[1])
    torch.manual_seed(job.seed)
    train_set, val_set = common.datasets(job)
    loaders = DataLoaders(
        DataLoader(train_set, batch_size=job.batch_size, shuffle=True),
        DataLoader(val_set, batch_size=job.batch_size),
        device=torch.device("cpu"),
    )
    learner = Learner(
        loaders,
        common.model(job, len(train_set.classes)),
        loss_func=nn.CrossEntropyLoss(),
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW),
        lr=job.learning_rate,
        wd=job.weight_decay,
        metrics=accuracy,
    )
    with learner.no_bar():
        learner.fit(job.epochs)
        loss, share = learner.validate()
    learner.save("model")
    Outcome(float(loss), round(float(share) * len(val_set)), len(val_set)).write(sys.argv[2])


if __name__ == "__main__":
    main()
