"""Correspondences found without experts: distinctive points of the fixed lung, matched in moving.

Interest points (Foerstner) are carried by a coarse-to-fine motion field: discrete search, then
Gauss-Newton steps on MIND and on local contrast, as a registration does them. No network takes
part, because keypoints are there to teach it. Pairs with a large forward-backward error are
dropped.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from ..core.errors import InputError
from ..core.geometry import Volume
from ..engine.catalogue import METHODS
from ..engine.field.operations import sample_points
from ..engine.field.pyramid import FeaturePyramid
from ..engine.images.preprocessing import working_pair
from ..engine.optimise.gauss_newton import GaussNewtonOptimiser
from ..engine.start.alignment import distance_map, lung_alignment, moved
from ..engine.start.search import discrete_search

COUNT = 3000  # at most
DEPTH_MM = 2.0  # interest points are at least this far inside the lung
GATHERED = 1.4  # working voxels over which gradients are gathered (sigma)
APART = 1  # working voxels in which only the most distinctive point is kept
TOLERANCE_MM = 2.0  # a pair with a larger forward-backward error is dropped
COARSE = (6, 3e-4)  # Gauss-Newton steps after the search and their stiffness, on fields of 12 mm


def find_keypoints(
    fixed: Volume, moving: Volume, fixed_mask: Volume, moving_mask: Volume
) -> tuple[np.ndarray, np.ndarray]:
    """Corresponding points (N, 3) in fixed and moving, LPS mm, N at most COUNT.

    Images in HU; masks of the lungs, on any grids. Raises InputError where nothing corresponds.
    """
    matcher = _Matcher(fixed, moving, fixed_mask, moving_mask)
    points = matcher.interest_points()
    found = matcher(points)
    back = _Matcher(moving, fixed, moving_mask, fixed_mask)(found)
    kept = np.linalg.norm(back - points, axis=1) <= TOLERANCE_MM
    if not kept.any():
        raise InputError(
            "No point of the fixed lungs was found again in the moving image: are both images of "
            "one patient, and do the masks mark the lungs?"
        )
    return points[kept], found[kept]


class _Matcher:
    """Follows points of one image into another, in the frame of the pair's working grid."""

    def __init__(self, fixed: Volume, moving: Volume, fixed_mask: Volume, moving_mask: Volume):
        distances = distance_map(fixed_mask), distance_map(moving_mask)
        start = lung_alignment(*distances, fixed.grid, moving.grid)
        self.pair = working_pair(fixed, moving, *distances, start)
        with torch.inference_mode():
            self._level, self._field = _motion(FeaturePyramid(self.pair))

    def interest_points(self) -> np.ndarray:
        """The most distinctive points (N, 3) of the fixed lung, LPS mm, N at most COUNT."""
        grid = self.pair.grid
        strength = distinctiveness(self.pair.fixed)
        strength[self.pair.fixed_distance > -DEPTH_MM] = 0
        return grid.to_world(peaks(strength, APART, COUNT)[:, ::-1])

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """The points (N, 3) of moving, LPS mm, that correspond to points (N, 3) of fixed."""
        with torch.inference_mode():
            relative = torch.from_numpy(points - np.asarray(self._level.origin)).float()
            motion = sample_points(self._field, relative / self._level.spacing)
        return moved(self.pair.start, points + motion.numpy())


def _motion(pyramid: FeaturePyramid):
    """The last level and the field (3, d, h, w) in mm on it."""
    _, fine, last = METHODS["gauss-newton"].plan()
    level = pyramid.mind_level(4)
    iterations, stiffness = COARSE
    field = _descended(level, discrete_search(level), iterations, {"stiffness": stiffness})
    field = _descended(pyramid.mind_level(2), field, fine.iterations, fine.settings)
    level = pyramid.contrast_level(field)
    return level, _descended(level, field, last.iterations, last.settings)


def _descended(level, field: torch.Tensor, iterations: int, settings) -> torch.Tensor:
    """A field of any level (3, ., ., .), mm, on this level and improved there."""
    field = level.sample_field(field)
    *_, (field, _) = GaussNewtonOptimiser(**settings).iterate(level, field, iterations)
    return field


def distinctiveness(image: np.ndarray) -> np.ndarray:
    """Foerstner's measure 1 / trace(inverse of the structure tensor), (z, y, x), float32.

    image (z, y, x). Large where the image fixes a point's position along all three axes.
    """
    image = image.astype(np.float32, copy=False)
    gradient = [ndimage.gaussian_filter1d(image, 0.7, axis=k, order=1) for k in range(3)]

    def gathered(i, j):
        return ndimage.gaussian_filter(gradient[i] * gradient[j], GATHERED, truncate=2.5)

    a, b, c = gathered(0, 0), gathered(1, 1), gathered(2, 2)
    d, e, f = gathered(0, 1), gathered(0, 2), gathered(1, 2)
    # trace(inverse) = (sum of the principal 2x2 minors) / determinant
    minors = (b * c - f * f) + (a * c - e * e) + (a * b - d * d)
    determinant = a * (b * c - f * f) - d * (d * c - e * f) + e * (d * f - b * e)
    return np.maximum(determinant, 0) / np.maximum(minors, 1e-20)


def peaks(strength: np.ndarray, apart: int, count: int) -> np.ndarray:
    """Indices (N, 3), (z, y, x), of the strongest local maxima, strongest first.

    apart: half-width in voxels of the cube in which a maximum is the largest.
    """
    largest = ndimage.maximum_filter(strength, size=2 * apart + 1)
    index = np.argwhere((strength == largest) & (strength > 0))
    order = np.argsort(-strength[tuple(index.T)], kind="stable")
    return index[order[:count]]
