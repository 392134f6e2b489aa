"""Registration of lung CT with a learned optimiser.

``register`` and ``Registration`` are the way in; they are loaded when first used, so that importing
the package imports no torch.
"""

import os

__version__ = "0.1.0"

# Torch's threads wait for each other by spinning, 300,000 turns unless told otherwise. Where other
# programs want the same cores, what they wait for is not running: measured on two cores with one
# busy, a registration took 108 s with 50,000 turns, 14 s with 1,000, and 7 s either way when idle.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_ENGINE = ("Registration", "Result", "Step", "register")
__all__ = [*_ENGINE, "DisplacementField", "Grid", "InputError", "Volume", "__version__"]


def __getattr__(name: str):
    """The public names, imported on first use."""
    import importlib

    if name in _ENGINE:
        return getattr(importlib.import_module(".engine.registration", __name__), name)
    if name in ("DisplacementField", "Grid", "Volume"):
        return getattr(importlib.import_module(".geometry", __name__), name)
    if name == "InputError":
        return importlib.import_module(".errors", __name__).InputError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
