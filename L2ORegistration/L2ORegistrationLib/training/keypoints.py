"""Correspondences found without experts: distinctive points of the fixed lung, matched in moving.

Interest points (Foerstner) are carried by a coarse-to-fine motion field (discrete search, then
Gauss-Newton steps on MIND and on local contrast); each then searches its own surroundings, held
together with its neighbours. Pairs that do not find their way back are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.spatial import cKDTree

from ..engine.gauss_newton import GaussNewtonOptimiser
from ..engine.prealignment import distance_map, lung_alignment
from ..engine.preprocessing import make_pair
from ..engine.pyramid import Scans, feature_map, sample_points
from ..engine.search import discrete_search
from ..errors import InputError
from ..geometry import Volume

COUNT = 3000
DEPTH_MM = 2.0  # interest points are at least this far inside the lung
APART = 1  # working voxels in which only the most distinctive point is kept
TOLERANCE_MM = 2.0  # a pair whose way back misses by more is dropped
FIELD_ITERATIONS = ((4, 12), (2, 12))  # (factor of the features, Gauss-Newton steps)
FIELD_STIFFNESS = 3e-4
REFINEMENT_ITERATIONS, REFINEMENT_STIFFNESS = 3, 4e-3  # on local contrast

PATCH = 3  # working voxels to each side that are compared
REACH = 3  # working voxels to each side that are searched
NEIGHBOURS = 12
COUPLING = (1e-3, 1e-2, 3e-2)  # dissimilarity per squared voxel from the neighbours' mean
_CHUNK = 256


@dataclass(frozen=True)
class Matches:
    """fixed, moving: corresponding points (N, 3), LPS mm; miss: (N,) mm of the way back.

    kept: (N,) bool, those whose way back misses by no more than the tolerance.
    """

    fixed: np.ndarray
    moving: np.ndarray
    miss: np.ndarray
    kept: np.ndarray


def find_keypoints(
    fixed: Volume, moving: Volume, fixed_mask: Volume, moving_mask: Volume, *, count: int = COUNT
) -> tuple[np.ndarray, np.ndarray]:
    """Corresponding points (N, 3) in fixed and moving, LPS mm, N at most `count`.

    Images in HU; masks of the lungs, on any grids. Raises InputError where nothing corresponds.
    """
    matches = match(fixed, moving, fixed_mask, moving_mask, count=count)
    if not matches.kept.any():
        raise InputError(
            "No point of the fixed lungs was found again in the moving image: are both images of "
            "one patient, and do the masks mark the lungs?"
        )
    return matches.fixed[matches.kept], matches.moving[matches.kept]


def match(
    fixed: Volume,
    moving: Volume,
    fixed_mask: Volume,
    moving_mask: Volume,
    *,
    points: np.ndarray | None = None,
    count: int = COUNT,
    tolerance: float = TOLERANCE_MM,
) -> Matches:
    """Match `points` (N, 3), LPS mm of fixed (None: interest points, at most `count`)."""
    there = _Matcher(fixed, moving, fixed_mask, moving_mask)
    if points is None:
        points = there.interest_points(count)
    found = there(points)
    back = _Matcher(moving, fixed, moving_mask, fixed_mask)(found)
    miss = np.linalg.norm(back - points, axis=1)
    return Matches(np.asarray(points, float), found, miss, miss <= tolerance)


class _Matcher:
    """Follows points of one image into another, in the frame of the pair's working grid."""

    def __init__(self, fixed: Volume, moving: Volume, fixed_mask: Volume, moving_mask: Volume):
        distances = distance_map(fixed_mask), distance_map(moving_mask)
        start = lung_alignment(*distances, fixed.grid, moving.grid)
        self.pair = make_pair(fixed, moving, *distances, start)
        with torch.inference_mode():
            self._level, self._field = _motion(Scans(self.pair))

    def interest_points(self, count: int) -> np.ndarray:
        """The `count` most distinctive points (N, 3) of the fixed lung, LPS mm."""
        grid = self.pair.grid
        strength = distinctiveness(self.pair.fixed)
        strength[self.pair.fixed_distance > -DEPTH_MM] = 0
        return grid.to_world(peaks(strength, APART, count)[:, ::-1])

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """The points (N, 3) of moving, LPS mm, that correspond to points (N, 3) of fixed."""
        with torch.inference_mode():
            relative = torch.from_numpy(points - np.asarray(self._level.origin)).float()
            motion = sample_points(self._field, relative / self._level.spacing)
            spacing = self.pair.grid.spacing[0]
            position = torch.from_numpy(self.pair.grid.to_index(points)).float()
            maps = [
                feature_map(torch.from_numpy(image), 1)
                for image in (self.pair.fixed, self.pair.moving)
            ]
            shift = local_search(*maps, position, motion / spacing) * spacing
        moved = points + shift.numpy()
        return np.array([self.pair.start.TransformPoint(p) for p in moved.tolist()])


def _motion(scans: Scans):
    """The last level and the field (3, d, h, w) in mm on it."""
    field = None
    for factor, iterations in FIELD_ITERATIONS:
        level = scans.mind_level(factor)
        field = discrete_search(level) if field is None else level.sample_field(field)
        field = _descended(level, field, iterations, FIELD_STIFFNESS)
    level = scans.contrast_level()
    field = level.sample_field(field)
    return level, _descended(level, field, REFINEMENT_ITERATIONS, REFINEMENT_STIFFNESS)


def _descended(level, field: torch.Tensor, iterations: int, stiffness: float) -> torch.Tensor:
    *_, (field, _) = GaussNewtonOptimiser(stiffness).iterate(level, field, iterations)
    return field


def distinctiveness(image: np.ndarray, sigma: float = 1.4) -> np.ndarray:
    """Foerstner's measure 1 / trace(inverse of the structure tensor), (z, y, x), float32.

    image (z, y, x); sigma: voxels over which gradients are gathered. Large where the image fixes a
    point's position along all three axes.
    """
    image = image.astype(np.float32, copy=False)
    gradient = [ndimage.gaussian_filter1d(image, 0.7, axis=k, order=1) for k in range(3)]

    def gathered(i, j):
        return ndimage.gaussian_filter(gradient[i] * gradient[j], sigma, truncate=2.5)

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


def local_search(
    fixed: torch.Tensor, moving: torch.Tensor, position: torch.Tensor, motion: torch.Tensor
) -> torch.Tensor:
    """Refined motion (N, 3) of points, voxels (x, y, z).

    fixed, moving: features (C, D, H, W) on one lattice; position (N, 3): of the points, voxels;
    motion (N, 3): where the search starts. Every point compares its patch at all shifts within
    REACH; shifts that disagree with their neighbours' cost more and more, as COUPLING says.
    """
    costs = torch.cat(
        [
            _patch_costs(fixed, moving, position[i : i + _CHUNK], motion[i : i + _CHUNK])
            for i in range(0, len(position), _CHUNK)
        ]
    )
    steps = torch.arange(-REACH, REACH + 1, dtype=torch.float32)
    z, y, x = torch.meshgrid(steps, steps, steps, indexing="ij")
    shifts = torch.stack((x, y, z), dim=-1).flatten(0, 2)
    near = cKDTree(position.numpy()).query(position.numpy(), k=min(NEIGHBOURS, len(position)))[1]
    near = torch.from_numpy(near.reshape(len(position), -1))
    chosen = torch.zeros_like(motion)
    for coupling in COUPLING:
        # Neighbours vote with their whole motion: the starting field is smooth, its errors as well.
        mean = chosen[near].median(dim=1).values
        total = costs + coupling * torch.cdist(mean, shifts).square_()
        chosen = shifts[total.argmin(dim=1)]
    return motion + chosen + _below_voxel(total, chosen)


def _patch_costs(fixed, moving, position, motion) -> torch.Tensor:
    """Mean squared feature difference (n, shifts) of the patches at every shift within REACH."""
    own = _blocks_around(fixed, position, PATCH)
    there = _blocks_around(moving, position + motion, PATCH + REACH)
    points, channels = own.shape[:2]
    # |a - b|^2 = |a|^2 - 2 ab + |b|^2, the middle term as one convolution for each point
    product = F.conv3d(there.flatten(0, 1)[None], own, groups=points)[0]
    ones = own.new_ones((1, 1, *own.shape[2:]))
    energy = F.conv3d(there.square().sum(dim=1, keepdim=True), ones)[:, 0]
    costs = energy - 2 * product + own.square().sum(dim=(1, 2, 3, 4))[:, None, None, None]
    return costs.flatten(1) / (channels * ones.numel())


def _blocks_around(features: torch.Tensor, centre: torch.Tensor, radius: int) -> torch.Tensor:
    """Features (n, C, s, s, s), s = 2 radius + 1, around centres (n, 3) in voxels (x, y, z)."""
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    z, y, x = torch.meshgrid(steps, steps, steps, indexing="ij")
    where = centre[:, None] + torch.stack((x, y, z), dim=-1).flatten(0, 2)
    values = sample_points(features, where.flatten(0, 1)).T
    side = 2 * radius + 1
    return values.view(len(features), len(centre), side, side, side).transpose(0, 1)


def _below_voxel(costs: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Where a parabola through the costs (n, shifts) beside the chosen shifts has its minimum."""
    side = 2 * REACH + 1
    index = (chosen + REACH).long()
    offset = torch.zeros_like(chosen)
    for axis, stride in enumerate((1, side, side * side)):
        centre = index @ torch.tensor([1, side, side * side])
        inside = (index[:, axis] > 0) & (index[:, axis] < side - 1)
        rows = inside.nonzero().squeeze(1)
        low, middle, high = (costs[rows, centre[rows] + k * stride] for k in (-1, 0, 1))
        bend = (low - 2 * middle + high).clamp(min=1e-9)
        offset[rows, axis] = (0.5 * (low - high) / bend).clamp(-0.5, 0.5)
    return offset
