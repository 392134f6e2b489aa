"""The body in a CT, and which of the dark parts in the image are lungs inside it.

Room, couch and cushions can be as dark as lungs and as large. What tells them apart is that lungs
have tissue of one body on both sides, in whatever direction one looks.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ...core.blocks import box_of, distance

TISSUE = -300  # HU; whatever lies above is neither lung nor air
SMALLEST = 10e3  # mm3 of a lung
_AIR = -975  # HU; whatever lies below is rarely lung
_DARK = -400  # HU; whatever lies below is lung or air
_SHELL = 4.0  # mm: half of the thickness of what couches are made of
_PIECE = 0.2  # of the largest piece of the body: one that a narrow field of view cut off
_ENCLOSED = 0.25  # of the directions; a lung cut by the field of view has fewer than a whole one
_CANDIDATES = 12


def body(hu: np.ndarray, padding: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """The core of the patient's tissue, bool (z, y, x): all that is thicker than a couch's shell.

    hu, padding: as `Blocks.hounsfield` gives them; spacing: mm along (z, y, x). Arms that lie
    apart from the trunk are left out.
    """
    core = distance(~((hu > TISSUE) & ~padding), spacing) > _SHELL
    pieces, count = ndimage.label(core)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    return (sizes > max(_PIECE * sizes.max(), 1))[pieces]


def enclosure(tissue: np.ndarray) -> np.ndarray:
    """In how many of the four axial lines through a voxel there is tissue on both sides; 0 to 1.

    tissue: bool (z, y, x). Lungs have it nearly everywhere; what lies beside the body has none.
    """
    both = np.zeros(tissue.shape, np.float32)
    for step in ((0, 1), (1, 0), (1, 1), (1, -1)):
        both += _seen(tissue, step) & _seen(tissue, (-step[0], -step[1]))
    return both / 4


def find_lungs(
    hu: np.ndarray, padding: np.ndarray, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The dark parts that are lungs, and all that is nearer to them than to other dark parts.

    Both are bool (z, y, x); the first is empty where there is no lung. Arguments as for `body`.
    """
    dark = (hu < _DARK) & ~padding
    parts, count = ndimage.label(distance(~dark, spacing) > 3)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    largest = np.argsort(sizes)[::-1][:_CANDIDATES]
    candidates = [label for label in largest if sizes[label] * np.prod(spacing) >= SMALLEST]
    tissue = body(hu, padding, spacing)
    shares = ndimage.mean(enclosure(tissue), parts, candidates)
    inside = [
        label
        for label, share in zip(candidates, np.atleast_1d(shares), strict=True)
        if share > _ENCLOSED and np.mean(hu[parts == label] < _AIR) < 0.6
    ]
    # Where tissue is cut in front and behind, no body may be left around the lungs.
    if not inside and tissue[:, 0].any() and tissue[:, -1].any():
        inside = [
            label
            for label in candidates
            if not _is_air(parts == label, hu, padding)
            and in_tissue(parts == label, hu, padding, spacing)
        ]
    lungs = np.zeros_like(dark)
    for label in inside:
        part = parts == label
        if not lungs.any() or _belongs(part, lungs):
            lungs |= part
    others = (parts > 0) & ~lungs
    nearest = np.minimum(distance(others, spacing), 60)
    return lungs, ~padding & (distance(lungs, spacing) < nearest)


def in_tissue(
    part: np.ndarray, hu: np.ndarray, padding: np.ndarray, spacing: tuple[float, ...]
) -> bool:
    """Whether tissue is next to it, unlike next to a table, a blanket or foam."""
    box = box_of(part, spacing, 15)
    far = distance(part[box], spacing)
    around = (far > 6) & (far < 14) & ~padding[box]
    return bool(around.any() and np.mean(hu[box][around] > TISSUE) > 0.4)


def _seen(tissue: np.ndarray, step: tuple[int, int]) -> np.ndarray:
    """Whether there is tissue in a voxel or anywhere before it, walking by (y, x) steps."""
    y, x = step
    turned = tissue[:, :: y or 1, :: x or 1]
    if y == 0:
        seen = np.maximum.accumulate(turned, axis=2)
    else:
        seen = turned.copy()
        for row in range(1, seen.shape[1]):
            before, here = seen[:, row - 1], seen[:, row]
            if x == 0:
                here |= before
            else:
                here[:, 1:] |= before[:, :-1]
    return seen[:, :: y or 1, :: x or 1]


def _is_air(part: np.ndarray, hu: np.ndarray, padding: np.ndarray) -> bool:
    """Whether a dark part is as empty as gas, or open to the image's sides like the room's air."""
    empty = np.mean(hu[part] < _AIR)
    sides = np.zeros_like(part)
    for k in (0, -1):
        sides[:, k] = sides[:, :, k] = True
    surface = part & (sides | ~ndimage.binary_erosion(part, border_value=1))
    is_open = np.mean(ndimage.binary_dilation(sides | padding, iterations=2)[surface])
    # A cropped lung is open, a lung with emphysema quite empty, and the room's air mostly both.
    return is_open > 0.5 or empty > 0.6 or is_open + empty > 0.75


def _belongs(part: np.ndarray, lungs: np.ndarray) -> bool:
    """Whether a smaller dark part is the other lung, or a piece of one that is partly filled.

    Bowel with its gas lies lower, and is smaller than a lung.
    """
    share = part.sum() / lungs.sum()
    z, lungs_z = np.nonzero(part)[0].mean(), np.nonzero(lungs)[0]
    height = (z - lungs_z.min()) / (np.ptp(lungs_z) + 1)
    return share > 0.3 or (share > 0.03 and (0.0 if share > 0.1 else 0.2) < height < 1)
