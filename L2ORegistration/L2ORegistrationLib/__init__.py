"""Registration of lung CT with a learned optimiser."""

__version__ = "0.1.0"
