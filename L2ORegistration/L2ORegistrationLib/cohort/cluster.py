"""Where pairs are registered: Dask workers on this computer, or a scheduler's elsewhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING

from ..core.errors import InputError
from ..core.files import grid_of
from ..core.memory import free_mb
from .table import Row

if TYPE_CHECKING:
    from distributed import Client

_LOOKED_AT = 20  # rows, spread over the table, whose images tell how much memory a pair needs
_LUNGS_MM = (360.0, 260.0, 360.0)  # of a large patient, with the margin of the working grid
_IMAGE_BYTES = 12  # per voxel: both images as float32 and what is made of one of them at a time
_USUAL_MB = 2500  # a thin-slice chest CT, where no image of the table can be read
_SETTINGS = {
    # A second death of the worker ends a pair; what only waited there is submitted again.
    "distributed.scheduler.allowed-failures": 1,
    "distributed.scheduler.worker-saturation": 1.0,
    # Images of a registration cannot be moved to disk: only the last line of defence is of use.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.comm.timeouts.connect": "20s",
    "distributed.worker.daemon": True,
}


def require_dask() -> None:
    """Raise InputError where Dask is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise InputError(
            "Cohorts run on Dask, which is not installed: pip install -e '.[cohort]' in the clone."
        ) from error


@contextmanager
def local_client(
    workers: int, threads: int, memory_mb: int | None = None, gpus: Sequence[int] = ()
) -> Iterator[Client]:
    """A cluster on this computer: processes with one task each, ended with the context.

    threads: of the CPU for each; memory_mb: a worker that takes more is killed and replaced, None:
    no limit; gpus: worker i sees only the i-th of these, numbers as torch has them in this process.
    """
    require_dask()
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster

    visible = [_visible(gpu) for gpu in gpus]
    with dask.config.set(_SETTINGS):
        specification = {}
        for number in range(workers):
            environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
            if visible:
                environment["CUDA_VISIBLE_DEVICES"] = visible[number % len(visible)]
            options = {
                "nthreads": 1,
                "memory_limit": 0 if memory_mb is None else memory_mb << 20,
                "env": environment,
                "host": "127.0.0.1",
                "dashboard": False,
                "silence_logs": 50,
            }
            specification[number] = {"cls": Nanny, "options": options}
        scheduler = {
            "cls": Scheduler,
            "options": {"host": "127.0.0.1", "port": 0, "dashboard": False},
        }
        with (
            SpecCluster(
                workers=specification, scheduler=scheduler, silence_logs=50, shutdown_on_close=True
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


@contextmanager
def existing_client(address: str, timeout: float = 30.0) -> Iterator[Client]:
    """A client of the scheduler at this address, such as tcp://host:8786; it goes on afterwards.

    Raises InputError where no scheduler answers or it has no workers within the timeout (s).
    """
    require_dask()
    from distributed import Client

    try:
        client = Client(address, timeout=timeout)
    except (OSError, ValueError, TimeoutError, asyncio.TimeoutError) as error:
        raise InputError(
            f"No scheduler answers at {address}: start one with 'dask scheduler', and give its "
            "address as tcp://host:8786."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=timeout)
        except (TimeoutError, asyncio.TimeoutError) as error:  # two classes before Python 3.11
            raise InputError(
                f"The scheduler at {address} has no workers: start some with 'dask worker "
                f"{address} --nthreads 1'."
            ) from error
        yield client


def _visible(gpu: int) -> str:
    """What CUDA_VISIBLE_DEVICES must be for a process to see only the GPU of this number here.

    Where it is set already, as on shared servers and by SLURM, numbers count its entries: the first
    of "2,3" is cuda:0. Entries may also be UUIDs of GPUs or of their MIG parts.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return str(gpu)
    entries = [entry.strip() for entry in given.split(",")]
    if gpu >= len(entries):
        raise InputError(
            f"There is no cuda:{gpu} where CUDA_VISIBLE_DEVICES is '{given}': give numbers below "
            f"{len(entries)}, which count its entries."
        )
    return entries[gpu]


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(rows: Sequence[Row], spacing: float | None, threads: int) -> tuple[int, int]:
    """How many workers this computer carries, by cores and memory, and the MB that a pair needs."""
    needed = needed_mb(rows, spacing)
    free = free_mb()
    most = cores() // threads if free is None else min(cores() // threads, free // needed)
    return max(1, min(most, len(rows))), needed


def needed_mb(rows: Sequence[Row], spacing: float | None) -> int:
    """The memory (MB) for one pair, the largest of some rows, from the headers of their images.

    spacing: of the working grid, mm; None: the usual one.
    """
    from ..engine.images.closer import closer_ratios
    from ..engine.images.preprocessing import WORKING_SPACING_MM
    from ..engine.registration import BASE_MB, BYTES_PER_VOXEL, CLOSER_BYTES_PER_VOXEL

    spacing = spacing or WORKING_SPACING_MM
    stride = max(1, len(rows) // _LOOKED_AT)
    found = []
    for row in rows[::stride]:
        if fixed := grid_of(row.fixed):
            moving = grid_of(row.moving) or fixed
            ratios = closer_ratios((fixed.spacing, moving.spacing), spacing)
            closer = float(ratios[0]) ** 3 if ratios else 0
            each = BYTES_PER_VOXEL + closer * CLOSER_BYTES_PER_VOXEL
            extent = (n * width for n, width in zip(fixed.size, fixed.spacing))
            voxels = prod(min(e, lungs) / spacing for e, lungs in zip(extent, _LUNGS_MM))
            images = _IMAGE_BYTES * max(prod(fixed.size), prod(moving.size))
            found.append(BASE_MB + (int(voxels * each + images) >> 20))
    return max(found, default=_USUAL_MB)
