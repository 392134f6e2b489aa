"""Registration of lung CT with a learned optimiser.

``register`` and ``Registration`` are the way in; they are loaded when first used, so that importing
the package imports no torch.
"""

__version__ = "0.1.0"

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
