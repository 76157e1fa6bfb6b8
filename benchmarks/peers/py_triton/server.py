"""Triton's own server and batcher in C++, from PyPI: PyTriton has it call a function of Python.

That function takes JPEGs and runs ONNX Runtime, since the wheel has no backend but Python's.
"""

from __future__ import annotations

import os
import sysconfig

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.common import decode, load

model = load()


@batch
def classify(image: NDArray[np.object_]) -> list[NDArray[np.float32]]:
    """bytes[N,1] -> float32[N,C]."""
    return [model.run([decode(data) for data in image[:, 0]])]


if __name__ == "__main__":
    # Triton's process embeds Python: it must be the libpython of this standard library, not the
    # system's.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    addresses = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(os.environ["PORT"]),
        grpc_address="127.0.0.1",
        grpc_port=int(os.environ["GRPC_PORT"]),
        metrics_port=int(os.environ["METRICS_PORT"]),
    )
    batcher = DynamicBatcher(max_queue_delay_microseconds=5000)
    with Triton(config=addresses) as triton:
        triton.bind(
            "vgg19",
            [classify] * int(os.environ["WORKERS"]),
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(len(model.labels),))],
            config=ModelConfig(max_batch_size=32, batcher=batcher),
        )
        triton.serve()
