"""Which devices torch can compute on here, and how much memory they have free."""

from __future__ import annotations

import torch

from ..core.errors import InputError
from ..core.memory import free_mb
from .selfcheck import problem


def available_devices() -> list[tuple[str, str, int | None]]:
    """(name, description, free megabytes or None where unknown), the preferred one first."""
    described = {"mps": "Apple GPU", "cpu": f"CPU, {torch.get_num_threads()} threads"}
    return [
        (name, described.get(name) or torch.cuda.get_device_name(name), _free_mb(name))
        for name in _names()
    ]


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name; "auto" takes CUDA, else MPS, else the CPU.

    A GPU that doesn't compute what the CPU does is passed over by "auto". InputError where the
    named device is absent or has that problem.
    """
    if name == "cpu":  # without a look at the GPUs, which may be full or another's
        return torch.device(name)
    names = _names()
    if name == "auto":
        return torch.device(next(n for n in names if problem(n) is None))
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in names:
        raise InputError(
            f"The device '{name}' is not available here: choose one of {', '.join(names)} or auto."
        )
    reason = problem(wanted)
    if reason is not None:
        raise InputError(f"The device '{name}' cannot run a registration ({reason}): choose cpu.")
    return torch.device(wanted)


def _names() -> list[str]:
    """What torch can see here, the preferred one first."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*(f"cuda:{i}" for i in range(count)), *mps, "cpu"]


def _free_mb(name: str) -> int | None:
    if not name.startswith("cuda"):
        return free_mb()
    try:
        free = torch.cuda.mem_get_info(torch.device(name))[0]
        # What torch holds from an earlier registration, and will use again, counts as free.
        held = torch.cuda.memory_reserved(name) - torch.cuda.memory_allocated(name)
        return (free + held) >> 20
    except RuntimeError:  # it is full, or lent to one process that is not this
        return None


def has_memory(device: torch.device, needed_mb: int) -> bool:
    """Whether the device has so much memory free, as far as anybody says."""
    free = _free_mb(str(device))
    return free is None or free >= needed_mb


def check_memory(device: torch.device, needed_mb: int) -> None:
    """InputError where the device has less free memory than a registration is expected to need."""
    if not has_memory(device, needed_mb):
        raise InputError(
            f"This registration needs about {needed_mb} MB on {device}, but only "
            f"{_free_mb(str(device))} MB are free: choose a coarser spacing, another device, or "
            "close other programs."
        )
