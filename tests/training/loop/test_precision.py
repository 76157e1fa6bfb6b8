from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator

from training.loop import precision
from training.loop.precision import (
    choose_precision,
    convolutions_in_bf16,
    cpu_computes_in_bf16,
    frozen_autocast,
    frozen_precision,
    multiply_with_onednn,
)


@pytest.mark.parametrize(
    ("wanted", "device", "has_bf16", "expected"),
    [
        ("auto", "cuda", True, "bf16"),
        ("auto", "cuda", False, "no"),
        ("auto", "cpu", True, "no"),
        ("fp16", "cuda", True, "fp16"),
        ("no", "cuda", True, "no"),
    ],
)
def test_precision(
    monkeypatch: pytest.MonkeyPatch, wanted: Any, device: str, has_bf16: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert choose_precision(wanted, device) == expected


@pytest.mark.parametrize(
    ("wanted", "has_bf16", "expected"),
    [("auto", True, "bf16"), ("auto", False, "no"), ("no", True, "no")],
)
def test_frozen_layers_on_a_cpu(
    wanted: Any, has_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_computes_in_bf16", lambda: has_bf16)
    accelerator = Accelerator(cpu=True)
    chosen = frozen_precision(wanted, accelerator)
    assert chosen == expected
    linear = torch.nn.Linear(4, 4)
    with frozen_autocast(chosen, accelerator):
        dtype = linear(torch.ones(1, 4)).dtype
    assert dtype == (torch.bfloat16 if expected == "bf16" else torch.float32)
    assert linear(torch.ones(1, 4)).dtype == torch.float32  # those that train


@pytest.mark.parametrize(
    ("wanted", "has_bf16", "processes", "compiled", "expected"),
    [
        ("auto", True, 1, False, True),
        ("auto", False, 1, False, False),
        ("no", True, 1, False, False),
        ("bf16", True, 1, False, False),  # all layers are
        ("auto", True, 2, False, False),
        ("auto", True, 1, True, False),
    ],
)
def test_convolutions_that_train_on_a_cpu(
    wanted: Any,
    has_bf16: bool,
    processes: int,
    compiled: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "cpu_computes_in_bf16", lambda: has_bf16)
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(Accelerator, "num_processes", processes)
    assert convolutions_in_bf16(wanted, accelerator, compiled=compiled) is expected


def test_what_pytorch_says_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("avx512_bf16", "amx_bf16"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda n=name: {n: True}, raising=False)
        assert cpu_computes_in_bf16()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert not cpu_computes_in_bf16()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not cpu_computes_in_bf16()


@pytest.mark.parametrize("rounds", [False, True])
def test_products_stay_in_float32(rounds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this processor does with the permission to round."""
    monkeypatch.setattr(torch, "equal", lambda a, b: not rounds and bool((a == b).all()))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        multiply_with_onednn()
        if rounds:
            assert torch.get_float32_matmul_precision() == "highest"
        torch.manual_seed(0)
        left, right = torch.randn(64, 512), torch.randn(512, 128)
        expected = left.double() @ right.double()
        error = (left @ right - expected).norm() / expected.norm()
        assert error < 1e-6  # bfloat16's would be 2e-3
    finally:
        torch.set_float32_matmul_precision(before)
