"""What a registration borrows while it computes: torch's threads and memory, given back after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..core.errors import InputError
from ..core.memory import ran_out


@contextmanager
def borrowed(threads: int | None) -> Iterator[None]:
    """So many CPU threads for torch within; None: as many as it has.

    That is a setting of the process: registrations that run side by side had better share one.
    Raises InputError where memory runs out within, or the device lacks an operation.
    """
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    except NotImplementedError as error:
        raise InputError(f"The device cannot run this method ({error}): choose cpu.") from error
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        place = "GPU" if isinstance(error, torch.cuda.OutOfMemoryError) else "computer"
        raise InputError(
            f"The {place} ran out of memory: choose a coarser working spacing, close other "
            "programs, or take the CPU in place of a GPU."
        ) from error
    finally:
        torch.set_num_threads(before)
