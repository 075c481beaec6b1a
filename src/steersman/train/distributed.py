"""Several processes that train one model: ``torchrun --nproc-per-node 2 -m steersman align RECIPE``.

The first process, the leader, runs the recipe. The others follow: they wait until a stage trains, take part in it with
the same data in memory, and write nothing. Of the micro-batches of an optimiser step each process takes its share;
gradients are added up, so that all make the same step: that of a single process, up to rounding. Losses are sums
divided by what the *whole* step weighs, which every process knows, so nothing else need be exchanged.

Processes on one machine or with a shared disk; tensors travel by gloo from CPUs and by nccl from GPUs. Without
torchrun, this file does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # followers wait while the leader answers, scores and reports


def rank() -> int:
    """The number of this process, 0 for the leader."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined() -> Iterator[None]:
    """Within it, the processes can talk to each other."""
    if count() == 1:
        yield
        return
    import torch
    from torch import distributed

    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def call(stage: str | None, *arguments: Any) -> None:
    """The leader tells its followers to take part in a stage, or with None that it is done."""
    if count() > 1:
        from torch import distributed

        distributed.broadcast_object_list([(stage, arguments)], src=0)


def called() -> tuple[str | None, tuple[Any, ...]]:
    """A follower waits for the next `call`."""
    from torch import distributed

    received: list[Any] = [None]
    distributed.broadcast_object_list(received, src=0)
    stage, arguments = received[0]
    return stage, arguments


def wait() -> None:
    """Until all processes are here."""
    if count() > 1:
        from torch import distributed

        distributed.barrier()


def share(rows: Sequence[Any], most: int) -> list[Sequence[Any]]:
    """Cut rows into micro-batches of at most ``most``, so many that every process gets one if there are enough."""
    size = max(1, min(most, -(-len(rows) // count())))
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def mine(number: int) -> bool:
    """Whether this process computes the micro-batch of this number."""
    return number % count() == rank()


def gather(rows: Sequence[T]) -> list[T]:
    """What all processes found, those of the first one first."""
    if count() == 1:
        return list(rows)
    from torch import distributed

    found: list[Any] = [None] * count()
    distributed.all_gather_object(found, list(rows))
    return [row for own in found for row in own]


def add_up(parameters: Collection[Tensor], *measured: float) -> Sequence[float]:
    """Let every process have the sums of all processes' gradients, and of what each of them measured.

    Returns the sums of ``measured``; of one process, that is what it gave.
    """
    if count() == 1:
        return measured
    import torch
    from torch import distributed

    if parameters:
        # A process that had none of the rows has no gradients, and takes part with zeros.
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in own])
        distributed.all_reduce(flat)
        for parameter, total in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            parameter.grad = total.view_as(parameter)
    sums = torch.tensor(measured, dtype=torch.float64)
    distributed.all_reduce(sums)
    found: list[float] = sums.tolist()
    return found
