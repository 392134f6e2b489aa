"""The same for the fixed and the moving image at once, each on a core of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor


def at_once(function: Callable, *values: Sequence) -> list:
    """function(*v) for the fixed and the moving one of `values`, in that order."""
    with ThreadPoolExecutor(2) as both:
        return list(both.map(function, *values))
