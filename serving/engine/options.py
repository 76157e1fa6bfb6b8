"""How a model is to be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from models.bundle.variants import CpuEngine
from serving.engine.providers import CPU, GpuOptions, Provider, ProviderChoice


@dataclass(frozen=True)
class SessionOptions:
    """How a model is to be run.

    Args:
        providers: see `serving.engine.providers.choose_providers`.
        must_run_on: the provider without which the model isn't served; None: any.
        intra_op_threads: threads of one batch on the CPU.
        max_batch_size: largest batch that `Session.run` will be called with; 0:
            `default_batch_size`.
        gpu: its precision says which variant of the model is run, on the CPU as well.
        cpu_engine: what runs it where the first provider is the CPU's.
    """

    providers: Sequence[ProviderChoice]
    must_run_on: Provider | None
    intra_op_threads: int
    max_batch_size: int
    gpu: GpuOptions = field(default_factory=GpuOptions)
    cpu_engine: CpuEngine = "onnxruntime"

    @property
    def on_cpu(self) -> bool:
        """Whether no GPU is to run it."""
        return self.providers[0][0] == CPU
