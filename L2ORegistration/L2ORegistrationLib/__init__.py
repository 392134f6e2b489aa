"""Registration of lung CT in a few iterations, by classical or learned steps.

``register`` and ``Registration`` are the way in; they are loaded when first used, so that importing
the package imports no torch.
"""

import os

__version__ = "0.1.0"

# Torch's threads wait for each other by spinning, 300,000 turns unless told otherwise. Where other
# programs want the same cores, what they wait for is not running; where a thread has gone to sleep,
# waking it takes longer than most of torch's operations. Seconds of a registration on two cores for
# 1000 / 3000 / 10,000 turns: idle 8.6 / 6.5 / 6.3, with one core busy 11 / 14 / 21.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

_ENGINE = ("Registration", "Result", "Step", "register")
__all__ = [*_ENGINE, "DisplacementField", "Grid", "InputError", "Volume", "__version__"]


def __getattr__(name: str):
    """The public names, imported on first use."""
    import importlib

    if name in _ENGINE:
        return getattr(importlib.import_module(".engine.registration", __name__), name)
    if name in ("DisplacementField", "Grid", "Volume"):
        return getattr(importlib.import_module(".core.geometry", __name__), name)
    if name == "InputError":
        return importlib.import_module(".core.errors", __name__).InputError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
