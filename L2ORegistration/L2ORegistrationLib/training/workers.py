"""The processes that train together: `torchrun` starts them, they share decisions and gradients."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from ..core.errors import InputError
from ..engine.devices import choose_device

T = TypeVar("T")
_PATIENCE = timedelta(days=7)  # preparing real pairs in the first process may take hours


@dataclass(frozen=True)
class Workers:
    """This process among `count` alike; alone by default, and then nothing is sent to anyone."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prepares, prints and writes."""
        return self.rank == 0

    def shared(self, make: Callable[[], T]) -> T:
        """What make() returns in the first process; the others wait for it."""
        value = make() if self.first else None
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace the gradients by their mean over all processes."""
        if self.count == 1:
            return
        parameters = list(parameters)
        # A parameter can be without a gradient in some processes, such as those that drew crops
        # too small for the network's deepest level, and stays so only where all are without.
        known = parameters[0].new_tensor([p.grad is not None for p in parameters])
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        joined = torch.cat((known, *flat))
        dist.all_reduce(joined)
        known, *means = joined.split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, somewhere, mean in zip(parameters, known.tolist(), means):
            parameter.grad = mean.view_as(parameter) / self.count if somewhere else None

    def joined(self, mine: dict) -> dict:
        """The entries of all processes in the first one; elsewhere this process's own."""
        if self.count == 1:
            return mine
        found = [None] * self.count if self.first else None
        dist.gather_object(mine, found)
        return {k: v for part in found for k, v in part.items()} if self.first else mine

    def gathered(self, rows: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        """The rows of numbers of all processes, which have equally many, by rank."""
        if self.count == 1:
            return rows
        mine = torch.tensor(rows, dtype=torch.float64)
        everyone = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(everyone, mine)
        return [tuple(row) for part in everyone for row in part.tolist()]


@contextmanager
def joined() -> Iterator[Workers]:
    """The processes that torchrun started, or this one alone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Workers()
        return
    # Gradients travel as their device wants; numbers and decisions always through the CPU.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Workers(dist.get_rank(), dist.get_world_size())
        dist.barrier()  # a process that leaves while another still talks to it can abort that one
    finally:
        dist.destroy_process_group()


def device_of(name: str, workers: Workers) -> torch.device:
    """The device of this process: with several, GPU i for process i of this machine, or the CPU.

    Raises InputError for devices that are not there or that several processes cannot share.
    """
    if workers.count == 1:
        return choose_device(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"Several processes train on cpu or cuda, not on '{name}'.")
    if name == "cpu":
        return choose_device(name)
    here, there = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if here > there:  # in all processes, of which the first one tells it
        fewer = f"--nproc-per-node {there} or " if there else ""
        raise InputError(
            f"Each process needs a GPU of its own and there are {there}: use {fewer}--device cpu."
        )
    device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
    torch.cuda.set_device(device)
    return device
