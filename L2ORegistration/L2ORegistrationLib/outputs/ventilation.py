"""Ventilation: how much each part of the lungs fills from expiration to inspiration.

Two answers, both as volume gained per volume at expiration (0.2: a fifth more), so that air
entering is positive:
- jacobian: J - 1, from the field alone;
- hu: from the densities, rho_ex / rho_in - 1 with rho = 1 + HU / 1000, which is J - 1 where no
  mass comes or goes. Per volume of air instead of lung it is 1000 (HU_in - HU_ex) /
  (HU_ex (1000 + HU_in)), which Simon (2000) and Guerrero et al. (2005) define: `specific`.
Blood that enters with the breath is corrected for: rho_in / (1 + f) with f = (mass_in - mass_ex)
/ mass_ex over both lungs, to first order the correction of Guerrero et al. (2006). f needs the
volumes, and so the field: what `hu` says of how the gain is distributed is independent of it, how
large it is in all is not. So of both lungs `hu` is without the correction, and f stands beside it.
Local values of both kinds disagree widely between methods; means over regions are what to use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Grid, Volume
from ..core.hounsfield import PADDING, stored_offset
from ..core.jacobian import jacobian_determinant
from ..engine.images.lungs import split_lungs
from ..engine.images.seen import shown

SCALE_MM = 10.0  # sd of the Gaussian that values are averaged with
BOTH = "both lungs"
LOW = 0.5  # of the lungs' mean: what ventilates less than this share of it is called low
_NODE_MM = 2.5
_AIRLESS_HU = -250.0  # at expiration: above it there is no air to speak of
_MOST_BLOOD = 0.15  # of the lungs' mass, that a breath can bring; with a margin
_LEAST_SHARE = 0.01  # of what a value is averaged over, that must be usable
_WORTH_SAYING = 0.01  # of the lungs


@dataclass(frozen=True, eq=False)
class Ventilation:
    """Maps on one grid in the fixed scan, NaN outside the lungs, and tables by region.

    jacobian, hu: volume gained per volume at expiration, averaged over SCALE_MM; specific: the
    gain of `hu` per volume of air at expiration; fixed_is: "expiration" or "inspiration"; mass: f,
    the share by which the lungs' mass grows with the breath; regions: by name, with "volume_ml"
    (at expiration), "change_ml", "jacobian", "hu" (of both lungs as if f were 0), and "low": the
    share of its volume that ventilates less than half as much as the lungs do on average, by the
    Jacobian; unseen: the share of the fixed lungs that one of the scans does not show. hu and
    specific are NaN where hardly anything is lung in both scans, too.
    """

    jacobian: Volume
    hu: Volume
    specific: Volume
    fixed_is: str
    mass: float
    regions: dict[str, dict[str, float]]
    unseen: float

    def sentence(self) -> str:
        """What was found, in a sentence or two."""
        both = self.regions[BOTH]
        other = "inspiration" if self.fixed_is == "expiration" else "expiration"
        said = (
            f"Fixed is {self.fixed_is}, moving {other}: the lungs gain {both['change_ml']:.0f} ml "
            f"of {both['volume_ml']:.0f} ml at expiration ({100 * both['jacobian']:.0f} % by the "
            f"Jacobian; {100 * both['hu']:.0f} % by HU, if no blood came or went). "
        )
        if abs(self.mass) > _MOST_BLOOD:
            said += (
                f"The two disagree: the lungs' mass would change by {100 * self.mass:.0f} %, more "
                "than a breath explains. Check the registration, and that both images are in HU. "
            )
        if self.unseen >= _WORTH_SAYING:
            said += (
                f"{100 * self.unseen:.0f} % of the fixed lungs are not shown by both scans: by the "
                "Jacobian their gain is a guess, by HU it is not known. "
            )
        return said + (
            f"Values of single voxels are uncertain: they are averaged over {SCALE_MM:g} mm."
        )


def ventilation(
    field: DisplacementField,
    fixed: Volume,
    moving: Volume,
    lungs: Volume,
    regions: Mapping[str, Volume] | None = None,
) -> Ventilation:
    """Ventilation in the fixed lungs; fixed, moving: HU; lungs: mask of both in the fixed scan.

    regions: more masks in the fixed scan, such as lobes, by name. Which scan is the expiration is
    told by the volume. Raises InputError for an empty mask, a field that folds in the lungs in
    more than 1 % of them, and lungs that lie outside the moving image.
    """
    grid = _lattice(lungs)
    points = grid.points()
    inside = lungs.sample(points, order=0, outside=0.0) > 0
    jacobian = jacobian_determinant(field.resampled(grid)).array.astype(float)
    folded = float((jacobian[inside] <= 0).mean())
    if folded > 0.01:
        raise InputError(
            f"The field folds in {100 * folded:.1f} % of the lungs: "
            "no volume change can be taken from it, register again."
        )
    jacobian = np.maximum(jacobian, 1e-3)
    moved = points + field.sample(points)
    seen = moving.grid.contains(moved.reshape(-1, 3)).reshape(inside.shape)
    if not (seen & inside).any():
        raise InputError("The moving image does not show the lungs: nothing can be compared.")
    expiration = float(jacobian[inside].mean()) >= 1
    gain = jacobian if expiration else 1 / jacobian
    weight = inside * (1.0 if expiration else jacobian)  # volume at expiration of each voxel

    # At the pleura a voxel holds chest wall as well, whose mass is not the lung's.
    usable = ndimage.binary_erosion(inside, np.ones((3, 3, 3)))
    density = []
    for volume, where in ((fixed, points), (moving, moved)):
        hu = volume.sample(where) - stored_offset(volume.array)
        seen &= (hu > PADDING) & (shown(volume).sample(where, order=0, outside=0.0) > 0)
        density.append(np.maximum(1 + hu / 1000, 0.001))
    rho_ex, rho_in = density if expiration else density[::-1]
    usable &= seen & (rho_ex <= 1 + _AIRLESS_HU / 1000)
    if not usable.any():
        raise InputError("No voxel of the lungs holds air: are the images in Hounsfield units?")
    mass_ex = (weight * rho_ex)[usable].sum()
    mass = (weight * gain * rho_in)[usable].sum() / mass_ex - 1

    sigma = SCALE_MM / _NODE_MM
    volume = _blurred(weight, sigma)
    mean_gain = _blurred(weight * gain, sigma) / volume - 1
    # Masses are averaged before they are divided: a ratio of noise has no mean.
    share = weight * usable
    at_ex = _blurred(share * rho_ex, sigma)
    # What a voxel's tissue weighs in the space of inspiration is rho_in times its volume there.
    at_in = _blurred(share * gain * rho_in, sigma) / np.maximum(_blurred(share * gain, sigma), 1e-9)
    at_ex = at_ex / np.maximum(_blurred(share, sigma), 1e-9)
    by_hu = at_ex * (1 + mass) / np.maximum(at_in, 1e-3) - 1
    by_hu[_blurred(share, sigma) < _LEAST_SHARE * volume] = np.nan
    specific = by_hu / np.maximum(1 - at_ex, 0.05)

    maps = [
        Volume(np.where(inside, m, np.nan).astype(np.float32), grid)
        for m in (mean_gain, by_hu, specific)
    ]
    low = mean_gain < LOW * np.average(mean_gain[inside], weights=weight[inside])
    found = {}
    for name, chosen in _regions(lungs, regions or {}, grid, inside).items():
        part = chosen * weight
        if not part.any():
            raise InputError(f"The region {name} does not overlap the lungs.")
        total = float(part.sum())
        ml = total * _NODE_MM**3 / 1000
        change = float((part * gain).sum()) / total - 1
        # A region's masses are summed before they are divided, for the same reason.
        used = part * usable
        hu = np.nan
        if used.any():
            rho = (used * rho_ex).sum() / used.sum()
            hu = rho * (used * gain).sum() / (used * gain * rho_in).sum() - 1
            if name != BOTH:
                hu = (1 + hu) * (1 + mass) - 1
        found[name] = {
            "volume_ml": ml,
            "change_ml": ml * change,
            "jacobian": change,
            "hu": float(hu),
            "low": float((part * low).sum() / total),
        }
    side = "expiration" if expiration else "inspiration"
    return Ventilation(*maps, side, float(mass), found, float(1 - seen[inside].mean()))


def _lattice(lungs: Volume) -> Grid:
    marked = lungs.marked_points(most=400_000)
    if not len(marked):
        raise InputError("The lung mask is empty: draw it or leave it out.")
    return Grid.covering(marked, _NODE_MM, margin=2 * _NODE_MM)


def _blurred(array: np.ndarray, sigma: float) -> np.ndarray:
    return np.maximum(ndimage.gaussian_filter(array.astype(np.float32), sigma, truncate=3), 1e-9)


def _regions(
    lungs: Volume, more: Mapping[str, Volume], grid: Grid, inside: np.ndarray
) -> dict[str, np.ndarray]:
    """Masks (z, y, x) on the grid: both lungs, each, its thirds from top to bottom, and more."""
    points = grid.points()
    found = {BOTH: inside}
    mask = Volume(np.asarray(lungs.array) != 0, lungs.grid)
    for name, array in zip(("right", "left"), split_lungs(mask), strict=True):
        if not array.any():
            continue
        side = Volume(array.astype(np.uint8), lungs.grid)
        side = (side.sample(points, order=0, outside=0.0) > 0) & inside
        found[f"{name} lung"] = side
        z = points[..., 2]
        low, high = z[side].min(), z[side].max()
        third = np.clip(((high - z) / (high - low + 1e-6) * 3).astype(int), 0, 2)
        for k, part in enumerate(("upper", "middle", "lower")):
            found[f"{name} {part} third"] = side & (third == k)
    for name, region in more.items():
        found[name] = inside & (region.sample(points, order=0, outside=0.0) > 0)
    return found
