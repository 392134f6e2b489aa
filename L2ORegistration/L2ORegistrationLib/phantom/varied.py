"""Phantom pairs with what real scans have: disease in one scan, and scanners' and readers' faults.

The motion stays known at every voxel of the fixed lungs, also where nothing shows it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from ..core.geometry import Volume
from .disease import FINDINGS, emphysema
from .pair import Anatomy, PhantomPair
from .scanner import WAYS, Scan

_CLEAR_MM = 6.0  # landmarks this near to a finding are left out
_GRAIN_VOXELS, _GRAIN_HU = (0.4, 0.8), (15, 70)  # of the tissue's texture: width and strength
_FADED_HU = (10, 50)  # of the texture that only one scan shows


@dataclass(frozen=True)
class Kind:
    """Findings (keys of FINDINGS) and ways (keys of WAYS) of either scan.

    held: the masks hold the findings, as a careful reader would draw them.
    """

    in_fixed: tuple[str, ...] = ()
    in_moving: tuple[str, ...] = ()
    fixed_ways: tuple[str, ...] = ()
    moving_ways: tuple[str, ...] = ()
    held: bool = False


_DISEASE = {"in_fixed": ("consolidation",), "in_moving": ("collapse",)}
_DOSE = {"fixed_ways": ("sharp kernel",), "moving_ways": ("low dose",)}
KINDS: dict[str, Kind] = {
    "plain": Kind(),
    "thick": Kind(fixed_ways=("thick slices",), moving_ways=("thick slices",)),
    "dose": Kind(**_DOSE),
    "disease": Kind(**_DISEASE),
    "effusion": Kind(in_moving=("effusion",)),
    "nodules": Kind(in_fixed=("nodules",), moving_ways=("contrast agent",)),
    "hard": Kind(**_DISEASE, **_DOSE, held=True),
    "partial": Kind(fixed_ways=("partial",), moving_ways=("partial",)),
    "artefacts": Kind(
        fixed_ways=("motion bands", "shaky mask"), moving_ways=("metal", "shaky mask")
    ),
    "wide": Kind(fixed_ways=("wide voxels",), moving_ways=("wide voxels",)),
}


def vary(pair: PhantomPair, kind: str, seed: int) -> PhantomPair:
    """A pair of that kind, a key of KINDS; deterministic in the seed. The motion stays."""
    parts = KINDS[kind]
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
    fixed = Scan(pair.fixed, pair.fixed_mask)
    moving = Scan(pair.moving, pair.moving_mask)
    p, q, held = pair.fixed_landmarks, pair.moving_landmarks, parts.held
    fixed, fixed_clear = _diseased(rng, fixed, parts.in_fixed, held, p)
    moving, moving_clear = _diseased(rng, moving, parts.in_moving, held, q)
    for name in parts.fixed_ways:
        fixed = WAYS[name](rng, fixed)
    for name in parts.moving_ways:
        moving = WAYS[name](rng, moving)
    kept = fixed_clear & moving_clear
    kept &= fixed.image.grid.contains(p, margin=0) & moving.image.grid.contains(q, margin=0)
    return replace(
        pair,
        fixed=fixed.image,
        moving=moving.image,
        fixed_mask=fixed.mask,
        moving_mask=moving.mask,
        fixed_landmarks=p[kept],
        moving_landmarks=q[kept],
    )


def with_emphysema(anatomy: Anatomy, seed: int) -> Anatomy:
    """The same patient with holes in the lungs, which then show in both scans."""
    array = anatomy.image.array.copy()
    spacing = np.array(anatomy.image.grid.spacing[::-1])
    emphysema(np.random.default_rng([seed, 97]), array, anatomy.lungs.array > 0, spacing)
    return replace(anatomy, image=Volume(array, anatomy.image.grid))


def with_texture(anatomy: Anatomy, seed: int) -> Anatomy:
    """The same patient with the grain of lung tissue that is finer than vessels, in both scans."""
    rng = np.random.default_rng([seed, 101])
    return replace(anatomy, image=_grained(rng, anatomy.image, anatomy.lungs, _GRAIN_HU))


def faded(pair: PhantomPair, seed: int) -> PhantomPair:
    """The pair with a grain of its own in each scan: two days do not show the same to the last."""
    rng = np.random.default_rng([seed, 103])
    images = (pair.fixed, pair.fixed_mask), (pair.moving, pair.moving_mask)
    fixed, moving = (_grained(rng, image, mask, _FADED_HU) for image, mask in images)
    return replace(pair, fixed=fixed, moving=moving)


def _grained(rng: np.random.Generator, image: Volume, lungs: Volume, strengths) -> Volume:
    """The image with a grain in the lungs of a standard deviation within the strengths, HU."""
    grain = rng.standard_normal(image.grid.shape, np.float32)
    grain = ndimage.gaussian_filter(grain, rng.uniform(*_GRAIN_VOXELS), truncate=3)
    grain *= np.float32(rng.uniform(*strengths) / grain.std())
    array = image.array + grain * (lungs.array > 0)
    return Volume(array.astype(np.float32), image.grid)


def _diseased(rng, scan: Scan, findings, held: bool, landmarks) -> tuple[Scan, np.ndarray]:
    """The scan with the findings, and which landmarks (N, 3), LPS mm, are clear of them.

    held: see Kind.
    """
    if not findings:
        return scan, np.ones(len(landmarks), bool)
    image, lungs = scan.image.array.copy(), scan.mask.array > 0
    spacing = np.array(scan.image.grid.spacing[::-1])
    solid, mask = np.zeros_like(lungs), lungs.copy()
    for name in findings:
        before = image.copy()
        region = FINDINGS[name](rng, image, lungs, spacing)
        solid |= image != before
        mask &= ~region
    distance = ndimage.distance_transform_edt(~solid, sampling=spacing).astype(np.float32)
    clear = Volume(distance, scan.image.grid).sample(landmarks) > _CLEAR_MM
    drawn = lungs if held or not mask.any() else mask
    return Scan(
        Volume(image, scan.image.grid), Volume(drawn.astype(np.uint8), scan.mask.grid)
    ), clear
