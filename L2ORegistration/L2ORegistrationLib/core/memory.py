"""What memory the computer has left, what this process takes of it, and whether it ran out."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

_RAN_OUT = re.compile("out of memory|allocate memory", re.IGNORECASE)  # say torch and ITK


def ran_out(error: Exception) -> bool:
    """Whether an exception says that memory ran out, the computer's or a GPU's."""
    return isinstance(error, MemoryError) or bool(_RAN_OUT.search(str(error)))


def free_mb() -> int | None:
    """Memory (MB) that a process can still take.

    All there is, as on macOS, or None, where nobody says.
    """
    with suppress(OSError, StopIteration):
        return _listed("/proc/meminfo", "MemAvailable") >> 10
    if sys.platform == "win32":
        status = (ctypes.c_uint64 * 8)(64)  # MEMORYSTATUSEX, which begins with its own size
        known = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return status[2] >> 20 if known else None  # ullAvailPhys
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return None


def taken_mb() -> float | None:
    """What this process takes now (Linux), or took at most; None where nobody says."""
    with suppress(OSError, StopIteration):
        return _listed("/proc/self/status", "VmRSS") / 1024
    return _most_mb("RUSAGE_SELF")


def peak_mb() -> float | None:
    """The most that this process took, on Linux since `forget_peak`; None where nobody says.

    Not getrusage on Linux: what it calls the peak starts with that of the parent process.
    """
    with suppress(OSError, StopIteration):
        return _listed("/proc/self/status", "VmHWM") / 1024
    return _most_mb("RUSAGE_SELF")


def forget_peak() -> None:
    """Let the peak count from now on, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def children_mb() -> float | None:
    """The most that a program took which this process has started, and which has ended."""
    return _most_mb("RUSAGE_CHILDREN")


def _listed(file: str, key: str) -> int:
    """The number behind a key, in kB."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _most_mb(whose: str) -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(getattr(resource, whose)).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
