"""From an optimiser's field to the world: one displacement field over the whole fixed image."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ...core.geometry import DisplacementField, Grid, leaves
from ..images.preprocessing import WorkingPair
from .levels import MindLevel
from .operations import smooth

START_SPACING_MM = 6.0
START_MARGIN_MM = 60.0  # around the working grid: the largest displacements met, of deep breaths
SPREADING = 12  # voxels of twice the finest field's spacing: further than any point from the lungs
_CUT_OFF = (sitk.sitkDisplacementField, sitk.sitkBSplineTransform)  # zero beyond their grid
# Within this distance of the lungs the field is used as it is: dissimilarities reach ACTIVE_MM and
# half a voxel of the finest field beyond them, 9 mm.
TRUSTED_MM = 10.0


class WholeField:
    """Turns fields of the finest level into fields fixed -> moving on one grid for all steps.

    Outside the lungs the optimiser's field is continued smoothly from the lungs; beyond the
    working grid the displacement of its edge continues, so there is no jump.
    """

    def __init__(self, pair: WorkingPair, finest: MindLevel, fixed: Grid):
        spacing, self._finest = finest.spacing, finest
        origin = np.asarray(finest.origin)
        corners = (fixed.corners() - origin) / spacing
        first = np.floor(corners.min(axis=0) - 1e-6).astype(int)
        last = np.ceil(corners.max(axis=0) + 1e-6).astype(int)
        self.grid = Grid(tuple(last - first + 1), (spacing,) * 3, tuple(origin + first * spacing))
        size = finest.shape[::-1]
        self._index = [np.clip(np.arange(a, b + 1), 0, n - 1) for a, b, n in zip(first, last, size)]
        self._start = DisplacementField.of_transform(pair.start, start_grid(pair.grid))
        # Iterations would not find the way back from a large rotation, but its inverse is known.
        self._inverse = pair.start.GetInverse() if pair.start.IsLinear() else None
        self._points = finest.grid.points()
        if self._inverse is not None:
            self._matrix = _linear_part(pair.start)
            self._begun = self._start.sample(self._points).astype(np.float32)  # mm LPS
        self._trust = torch.sigmoid((TRUSTED_MM - finest.distance) / 2.0)

    def field(self, field: torch.Tensor) -> DisplacementField:
        """The whole motion, from an optimiser's field (3, d, h, w), mm, on any level's grid."""
        field = self._continued(self._finest.sample_field(field)).cpu().numpy()
        field = np.moveaxis(field, 0, -1)
        if self._inverse is not None:  # linear: nothing to look up, the same at all points
            total = self._begun + field @ self._matrix.T
        else:
            total = (field + self._start.sample(self._points + field)).astype(np.float32)
        x, y, z = self._index
        return DisplacementField(np.ascontiguousarray(total[np.ix_(z, y, x)]), self.grid)

    def undo_start(self) -> torch.Tensor:
        """The finest-level field (3, d, h, w), mm, that undoes the start: no motion at all."""
        if self._inverse is not None:
            undo = DisplacementField.of_transform(self._inverse, self._finest.grid).array
        else:
            undo = np.zeros((*self._finest.shape, 3))
            for _ in range(20):
                undo = -self._start.sample(self._points + undo)
        undo = torch.from_numpy(np.moveaxis(undo, -1, 0).astype(np.float32))
        return undo.to(self._finest.distance.device)

    def identity(self) -> DisplacementField:
        """No motion, on the grid of all steps."""
        return DisplacementField.zeros(self.grid)

    def _continued(self, field: torch.Tensor) -> torch.Tensor:
        """The field as far as it is trusted, and for the rest what blurring it outwards gives."""
        total = torch.cat((field * self._trust, self._trust))[None]
        coarse = F.avg_pool3d(total, 2)  # far from the lungs nothing changes within a few voxels
        spread = coarse
        for _ in range(SPREADING):
            spread = smooth(spread) + coarse  # what is known stays, what lies outside is filled
        spread = F.interpolate(spread, size=total.shape[2:], mode="trilinear", align_corners=False)
        filled = spread[0, :3] / spread[0, 3:].clamp(min=1e-20)
        return self._trust * field + (1 - self._trust) * filled


def start_grid(grid: Grid) -> Grid:
    """The lattice on which a start is sampled: around another grid, with room for the motion."""
    return Grid.covering(grid.corners(), START_SPACING_MM, START_MARGIN_MM)


def continued(transform: sitk.Transform, lattice: Grid) -> sitk.Transform:
    """The transform; where it or a part of it is a field, as one field on this lattice.

    SimpleITK takes displacement fields and B-splines to be zero beyond their grid, which tears
    apart lungs that it cuts; here the displacement of the edge continues.
    """
    parts = list(leaves(transform))
    if all(part.GetTransformEnum() not in _CUT_OFF for part in parts):
        return transform
    points = lattice.points()
    moved = points
    for part in parts:
        moved = _moved(part, moved)
    return DisplacementField((moved - points).astype(np.float32), lattice).to_transform()


def _moved(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    """Where a transform that is no composite takes points (..., 3), LPS mm, continued."""
    kind = transform.GetTransformEnum()
    if transform.IsLinear():
        return points @ _linear_part(transform).T + transform.TransformPoint((0.0, 0.0, 0.0))
    if kind == sitk.sitkDisplacementField:
        field = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
        return DisplacementField.of_image(field).transform_points(points)
    flat = points.reshape(-1, 3)
    nearest = _within_domain(transform, flat) if kind == sitk.sitkBSplineTransform else flat
    found = np.array([transform.TransformPoint(p) for p in nearest.tolist()])
    return (flat + found - nearest).reshape(points.shape)


def _within_domain(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    """The points (N, 3), those beyond the domain of a B-spline moved to its edge."""
    spline = sitk.BSplineTransform(transform)
    size = np.array(spline.GetTransformDomainPhysicalDimensions())
    origin, direction = spline.GetTransformDomainOrigin(), spline.GetTransformDomainDirection()
    domain = Grid((2, 2, 2), size, origin, direction)
    return domain.to_world(np.clip(domain.to_index(points), 1e-6, 1 - 1e-6))


def _linear_part(transform: sitk.Transform) -> np.ndarray:
    """The matrix (3, 3) of a linear transform, whatever its kind, float32."""
    moved = [transform.TransformPoint(p) for p in np.vstack((np.zeros(3), np.eye(3))).tolist()]
    return np.transpose(np.subtract(moved[1:], moved[0])).astype(np.float32)


def affine_start(matrix: np.ndarray) -> sitk.AffineTransform:
    """The SimpleITK transform of a 4x4 matrix, fixed point -> moving point, LPS mm."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform
