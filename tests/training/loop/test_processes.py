from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch.distributed as dist
from accelerate import Accelerator
from torch import multiprocessing as mp

from models.errors import UserError
from testing.images import write_image_folder
from testing.ports import free_port
from training.data.listing import DataError
from training.loop.config_file import load_config
from training.loop.context import load_data
from training.loop.processes import Processes, check_reachable
from training.reporter import SilentReporter

pytestmark = pytest.mark.slow

# Of a collective of the process group itself, as NCCL has ten minutes.
IMPATIENT = timedelta(seconds=1)
# Processes start and find each other on a machine that others keep busy.
FOUND = timedelta(minutes=2)


def accelerator(rank: int, count: int) -> Accelerator:
    return cast(Accelerator, SimpleNamespace(is_main_process=rank == 0, num_processes=count))


def together(work: Any, port: int, results: Any) -> None:
    """Run `work(rank, processes)` in two processes; what each gives goes into `results`."""
    mp.spawn(_run, args=(work, port, results), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]


def _run(rank: int, work: Any, port: int, results: Any) -> None:
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=FOUND
    )
    processes = Processes(accelerator(rank, 2))
    dist.distributed_c10d._set_pg_timeout(IMPATIENT)
    results[rank] = work(rank, processes)
    dist.destroy_process_group()


def long_work(rank: int, processes: Processes) -> list[str]:
    calls: list[str] = []

    def make() -> str:
        calls.append(f"by {rank}")
        time.sleep(2 * IMPATIENT.total_seconds())
        return "made"

    made = processes.from_main(make)
    if rank == 0:
        time.sleep(2 * IMPATIENT.total_seconds())
    processes.wait()
    return [made, *calls]


def refused_work(rank: int, processes: Processes) -> str:
    def make() -> None:
        raise DataError("data none does not exist")

    with pytest.raises(UserError) as error:
        processes.from_main(make)
    return str(error.value)


@pytest.fixture(scope="module")
def results() -> dict[str, dict[int, Any]]:
    """Of both kinds of work."""
    found = {}
    with mp.Manager() as manager:
        for work in (long_work, refused_work):
            shared = manager.dict()
            together(work, free_port(), shared)
            found[work.__name__] = dict(shared)
    return found


@pytest.mark.exhaustive
def test_one_works_and_the_others_wait_longer_than_a_collective_may(
    results: dict[str, dict[int, Any]],
) -> None:
    assert results["long_work"] == {0: ["made", "by 0"], 1: ["made"]}


@pytest.mark.exhaustive
def test_a_mistake_is_told_in_all(results: dict[str, dict[int, Any]]) -> None:
    assert set(results["refused_work"].values()) == {"data none does not exist"}


def test_one_process_alone_needs_no_group() -> None:
    processes = Processes(accelerator(0, 1))
    assert processes.from_main(lambda: 7) == 7
    processes.wait()


def test_images_that_another_machine_lacks(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "data", {"blue": 6, "red": 6})
    config = load_config(None, {"data": str(tmp_path / "data"), "output": "o"})
    data = load_data(config, SilentReporter())
    check_reachable(data)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="need the images at the same path on each machine"):
        check_reachable(data)
