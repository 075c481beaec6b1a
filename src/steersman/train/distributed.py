"""Several processes that train one model: ``torchrun --nproc-per-node 2 --no-python steersman align RECIPE``.

Process 0, the leader, runs the recipe. The others are followers: they wait until the leader broadcasts a stage that
trains, run it with the same arguments, and write nothing. The micro-batches of an optimiser step are divided among the
processes and gradients are summed, so that all make the same step: that of a single process, up to rounding. Losses
are sums divided by the weight of the *whole* step, which every process knows, so nothing else need be exchanged.

Processes on one machine or with a shared disk; tensors travel by gloo from CPUs and by nccl from GPUs. Without
torchrun, these functions do nothing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")
TIMEOUT = timedelta(days=7)  # followers wait while the leader samples, scores and reports


def rank() -> int:
    """The number of this process, 0 for the leader."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group() -> Iterator[None]:
    """Within it, the processes can communicate."""
    if world_size() == 1:
        yield
        return
    import torch
    from torch import distributed

    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def call(stage: str | None, *arguments: Any) -> None:
    """The leader broadcasts a stage and its arguments to the followers, or None when the run is done.

    Arguments are records, paths, numbers, strings, None, and lists, tuples and dictionaries of these, received as equal
    objects of the same types. They go through memory and the process group of one launch alone.
    """
    if world_size() > 1:
        from torch import distributed

        distributed.broadcast_object_list([(stage, arguments)], src=0)


def called() -> tuple[str | None, tuple[Any, ...]]:
    """A follower waits for the leader's next `call`; returns its stage and arguments."""
    from torch import distributed

    received: list[Any] = [None]
    distributed.broadcast_object_list(received, src=0)
    stage, arguments = received[0]
    return stage, arguments


def barrier() -> None:
    """Wait until all processes have reached this line."""
    if world_size() > 1:
        from torch import distributed

        distributed.barrier()


def split(rows: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Cut rows into micro-batches of at most ``size``; smaller ones if some process would otherwise have none."""
    size = max(1, min(size, -(-len(rows) // world_size())))
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def mine(number: int) -> bool:
    """Whether this process computes micro-batch ``number``."""
    return number % world_size() == rank()


def gather(rows: Sequence[T]) -> list[T]:
    """The rows of all processes, in the order of their ranks."""
    if world_size() == 1:
        return list(rows)
    from torch import distributed

    gathered: list[Any] = [None] * world_size()
    distributed.all_gather_object(gathered, list(rows))
    return [row for own in gathered for row in own]


def all_reduce(parameters: Collection[Tensor], *values: float) -> Sequence[float]:
    """Replace every gradient by its sum over all processes; returns the sums of ``values``."""
    if world_size() == 1:
        return values
    import torch
    from torch import distributed

    if parameters:
        # A process without rows has no gradients, and contributes zeros.
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in own])
        distributed.all_reduce(flat)
        for parameter, total in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            parameter.grad = total.view_as(parameter)
    sums = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(sums)
    totals: list[float] = sums.tolist()
    return totals
