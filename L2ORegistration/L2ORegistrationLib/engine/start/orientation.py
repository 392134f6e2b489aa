"""Whether the moving image has lost its orientation: mirrored, turned by quarters or upside down.

It happens where an image went through an array and back. Nothing then matches, but one of the other
47 orientations does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import permutations, product

import numpy as np
import torch

from ...core.geometry import Grid, Volume
from .alignment import box_alignment
from .choice import Comparison

CLEARLY = 0.85  # of the present mismatch: below that another orientation is the right one
SEARCHED = 5  # of the most promising orientations
_AXES = ("left and right", "front and back", "top and bottom")


def lost_orientation(
    fixed: Volume,
    moving: Volume,
    fixed_distance: Volume,
    moving_distance: Volume,
    grid: Grid,
    present: float,
    device: torch.device | str = "cpu",
    between: Callable[[], None] = lambda: None,
) -> str:
    """A sentence that says how the moving image seems to be turned or mirrored; else empty.

    fixed, moving: images; fixed_distance, moving_distance: signed distance maps of the lungs; grid:
    the working grid; present: the mismatch of the start as they lie. All 48 orientations are laid
    onto the fixed lungs by their boxes and compared on coarse features; the best of them are
    searched from. between: called before each of these, to end it by an exception.
    """

    def one_by_one(items: Iterable) -> Iterator:
        for item in items:
            between()
            yield item

    comparison = Comparison(fixed, moving, fixed_distance, grid, device)
    turns = [_matrix(order, signs) for order in permutations(range(3)) for signs in _SIGNS]
    laid = [box_alignment(fixed_distance, moving_distance, turn) for turn in turns]
    rough = [comparison.rough(transform) for transform in one_by_one(laid)]
    ranked = [int(i) for i in np.argsort(rough, kind="stable") if i != 0][: SEARCHED - 1]
    found = {i: comparison.searched("", laid[i]).mismatch for i in one_by_one((0, *ranked))}
    best = min(found, key=found.get)
    if best == 0 or found[best] > CLEARLY * min(found[0], present):
        return ""
    return (
        f"The moving image seems to have lost its orientation: {_described(turns[best])}. Correct "
        "it (reload the original file, or reorient the image) and register again."
    )


_SIGNS = tuple(product((1, -1), repeat=3))


def _matrix(order, signs) -> np.ndarray:
    """The signed permutation whose columns are the fixed axes in the moving image; first: none."""
    matrix = np.zeros((3, 3))
    for column, (row, sign) in enumerate(zip(order, signs)):
        matrix[row, column] = sign
    return matrix


def _described(matrix: np.ndarray) -> str:
    order, signs = np.abs(matrix).argmax(axis=0), matrix.sum(axis=0)
    if (order == range(3)).all():
        flipped = [name for name, sign in zip(_AXES, signs) if sign < 0]
        return " and ".join(flipped).replace("and front", ", front") + " are exchanged"
    letters = ["LPS"[k] if sign > 0 else "RAI"[k] for k, sign in zip(order, signs)]
    return f"its axes L, P, S lie along {', '.join(letters)}"
