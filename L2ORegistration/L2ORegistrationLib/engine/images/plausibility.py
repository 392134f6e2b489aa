"""Whether a mask can be the lungs of the chest in an image, or why not."""

from __future__ import annotations

import numpy as np

from ...core.blocks import Blocks, box_of, distance
from ...core.geometry import Volume
from .body import body, enclosure, find_lungs

_BLOCK = 5.0  # mm
_LITRES = (0.05, 10.0)  # an infant's lung or a slab; the largest lungs
_EXTENT = {"from side to side": 420, "from front to back": 320, "from top to bottom": 450}  # mm
_HU = (-970, -350)  # emptiest emphysema; densest lung
_DARKER = 35  # per cent of the mask must be that dark: one lung may be filled
_OUTSIDE = 0.1  # of the mask; a lung that the field of view cuts has little tissue around
_ON_LUNGS = 0.4  # of the mask; likewise
_FITTING = (
    0.93  # of the mask on the lungs, or of them in the mask: mirrored ones reach 0.90 at most
)
_NEAR = 8.0  # mm
_FILLED = 0.85  # of a box; lungs taper, and leave room for the heart


def implausible(mask: Volume, image: Volume) -> list[str]:
    """Why a mask cannot be the lungs of this chest CT: a plain sentence each, none if it can.

    mask: the lungs, bool or not zero; image: HU, or HU + 1024; each on a grid of its own. Judged
    are volume, extent, shape, density and place, on blocks of 5 mm. Single, cropped and partly
    filled lungs are plausible as long as most of what is marked is lung.
    """
    litres = np.count_nonzero(mask.array) * abs(np.linalg.det(mask.grid.matrix[:3, :3])) / 1e6
    if not mask.grid.matches(image.grid):
        mask = mask.on_grid(image.grid)
    blocks = Blocks.of_grid(image.grid, _BLOCK)
    marked = blocks.share(mask.array != 0) >= 0.5
    if not marked.any():
        return [f"The mask marks next to nothing of the image ({litres:.2g} litres)."]
    reasons = []
    if not _LITRES[0] <= litres <= _LITRES[1]:
        low, high = _LITRES
        reasons.append(f"The mask holds {litres:.3g} litres; lungs hold {low:g} to {high:g}.")
    reasons += _wrong_shape(marked, blocks.spacing)
    return reasons + _wrong_place(marked, *blocks.hounsfield(image.array), blocks.spacing)


def _wrong_shape(marked: np.ndarray, spacing: tuple[float, ...]) -> list[str]:
    """What the mask's extent and outline say against it."""
    index = np.argwhere(marked)
    size = index.max(axis=0) - index.min(axis=0) + 1
    reasons = [
        f"The mask reaches {mm:.0f} mm {way}; lungs stay below {most} mm."
        for (way, most), mm in zip(_EXTENT.items(), (size * spacing)[::-1], strict=True)
        if mm > most
    ]
    filled = len(index) / size.prod()
    if filled > _FILLED:
        reasons.append(f"The mask is a block: it fills {filled:.0%} of the box around it.")
    return reasons


def _wrong_place(
    marked: np.ndarray, hu: np.ndarray, padding: np.ndarray, spacing: tuple[float, ...]
) -> list[str]:
    """What the image says against the mask, where it lies."""
    reasons = []
    dark, median = np.percentile(hu[marked], (_DARKER, 50))
    if dark > _HU[1]:
        reasons.append(f"What the mask marks is too dense for lungs (median {median:.0f} HU).")
    elif median < _HU[0]:
        reasons.append(f"What the mask marks is as empty as air (median {median:.0f} HU).")
    lungs, _ = find_lungs(hu, padding, spacing)
    if not lungs.any():
        return reasons
    between = enclosure(body(hu, padding, spacing))
    if between[lungs].mean() > 0.5:  # otherwise the image is cut too close to tell
        outside = np.mean(((between == 0) | padding)[marked])
        if outside > _OUTSIDE:
            or_cut = ", or where the field of view cuts the lungs" if padding.any() else ""
            reasons.append(f"{outside:.0%} of the mask lies outside the body{or_cut}.")
    there = np.mean(distance(lungs, spacing)[marked] < _NEAR)
    around = box_of(marked, spacing, 0)  # one lung alone may be marked
    near = distance(marked, spacing) < _NEAR
    met = near[around][lungs[around]].mean() if lungs[around].any() else 0.0
    if there < _ON_LUNGS:
        reasons.append(f"Only {there:.0%} of the mask lies on the lungs that the image shows.")
    elif there < _FITTING and met < _FITTING:
        reasons.append(
            f"{1 - there:.0%} of the mask lies beside the lungs that the image shows, and "
            f"{1 - met:.0%} of these outside the mask: is it mirrored or shifted?"
        )
    return reasons
