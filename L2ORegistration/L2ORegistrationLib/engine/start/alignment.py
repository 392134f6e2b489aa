"""Where the optimiser starts: an affine (or given) motion that brings the lungs onto each other.

The optimiser looks a few voxels far, so the start decides the largest errors. The default fits an
affine to the surfaces of both lungs, through the signed distance maps of the two masks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk
from scipy import interpolate, optimize, spatial
from scipy.spatial.transform import Rotation

from ...core.errors import InputError
from ...core.geometry import DisplacementField, Grid, Volume
from ..images.preprocessing import resample

SURFACE_SPACING_MM = 3.0
BAND_MM = 15.0  # how far from the lung surface the distance maps are compared
FLAT_MM = 0.1  # landmarks that deviate less from a plane (root mean square) lie in it
TWICE_MM = 0.01  # landmarks nearer to each other are the same
POINTS, STEPS = 6000, 60
INSIDE_POINTS = 30000  # that tell the lungs' extent
ROUGH_POINTS, ROUGH_STEPS = 1000, 8  # enough to see which turn is the right one
TURNS = [(0, 0, 0), *(np.eye(3) * 25).tolist(), *(np.eye(3) * -25).tolist()]  # degrees, x, y, z
TURNED_DEGREES, MOVED_MM = 12.0, 50.0  # of the lungs as a whole: more is another position
ROUNDS = 5  # of fitting a rigid motion to the half of the points that agrees
LARGEST_MM = 1000.0  # no lungs are so long
SMALLEST = 100  # voxels of the distance map, 2.7 ml: less is no lung
EDGE_MM = 8.0  # a mask that ends this close to the image's edge is cut off there, not a surface


def distance_map(mask: Volume, spacing: float = SURFACE_SPACING_MM, margin: float = 40.0) -> Volume:
    """The signed distance (mm, negative inside) to a mask's surface on a world-aligned grid.

    The surface is the mask's outermost layer of voxels, so distances are half a voxel too large
    beside it, and those deep inside come from the nearest corner, up to a voxel's diagonal short.
    The grid covers the mask and a margin (mm); beyond it the edge value continues. InputError
    where the mask marks nothing that could be a lung.
    """
    if not mask.array.any():
        raise InputError("The lung mask is empty: give a mask that marks the lungs.")
    tight = mask.part(*mask.box())
    extent = np.ptp(tight.grid.corners(), axis=0).max()
    if extent > LARGEST_MM:
        raise InputError(
            f"The lungs would be {extent / 1000:.1f} m large: is the image's spacing in mm?"
        )
    grid = Grid.covering(tight.grid.corners(), spacing, margin)
    # A layer of nothing around it, so that nothing is what continues beyond.
    around = replace(
        tight.grid,
        size=tuple(n + 2 for n in tight.grid.size),
        origin=tuple(tight.grid.to_world((-1, -1, -1))),
    )
    padded = Volume(np.pad(tight.array, 1), around)
    soft = resample(padded, grid, sitk.Transform(3, sitk.sitkIdentity)) > 0.5
    if soft.sum() < SMALLEST:
        raise InputError("The lung mask marks next to nothing: give a mask that marks the lungs.")
    binary = Volume(soft.astype(np.uint8), grid).to_image()
    distance = sitk.SignedMaurerDistanceMap(
        binary, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    return Volume.of_image(distance)


def box_alignment(
    fixed: Volume, moving: Volume, turn: np.ndarray | None = None
) -> sitk.AffineTransform:
    """The scaling and shift that map the fixed lungs' (robust) extent onto the moving lungs'.

    fixed, moving: signed distance maps; turn: (3, 3), orthogonal, whose columns are the fixed axes
    in the moving image; None: the same.
    """
    return _boxes(_inside(fixed), _inside(moving), np.eye(3) if turn is None else turn)


def lung_alignment(
    fixed: Volume, moving: Volume, fixed_image: Grid | None = None, moving_image: Grid | None = None
) -> sitk.AffineTransform:
    """The affine (fixed point -> moving point, LPS mm) that matches the lungs' surfaces.

    fixed, moving: signed distance maps from `distance_map`; fixed_image, moving_image: the grids
    of the images, where given: surfaces at their edges are cuts through the lungs and don't count.
    The patient may lie turned by 30 degrees: all of TURNS are tried, and the best is fitted.
    """
    rng = np.random.default_rng(0)
    points = fixed.grid.points()[np.abs(fixed.array) < BAND_MM]
    if fixed_image is not None:
        points = points[_away_from_edges(points, fixed_image)]
    if len(points) < 100:
        return box_alignment(fixed, moving)
    points = points[rng.permutation(len(points))[:POINTS]]
    surface = _SurfaceFit(fixed, moving, moving_image)
    lungs = _inside(fixed), _inside(moving)
    turns = Rotation.from_euler("xyz", TURNS, degrees=True).as_matrix()
    starts = [_boxes(*lungs, turn) for turn in turns]
    costs = [surface(start, points[:ROUGH_POINTS], ROUGH_STEPS)[0] for start in starts]
    start = starts[int(np.argmin(costs))]
    _, fitted = surface(start, points, STEPS)
    return fitted if 0.3 < np.linalg.det(np.reshape(fitted.GetMatrix(), (3, 3))) < 3.0 else start


def rigid_part(fitted: sitk.AffineTransform, fixed: Volume) -> sitk.AffineTransform | None:
    """How an affine turns and moves the fixed lungs (a distance map) as a whole; None: hardly.

    Where disease has taken a part of the lungs out of one mask, an affine of their surfaces
    stretches the rest; a patient who was only turned and moved was not stretched.
    """
    matrix = np.reshape(fitted.GetMatrix(), (3, 3))
    left, _, right = np.linalg.svd(matrix)
    turn = left @ right
    centre = _inside(fixed).mean(axis=0)
    image = np.array(fitted.TransformPoint(centre))
    angle = np.degrees(Rotation.from_matrix(turn).magnitude())
    if angle < TURNED_DEGREES and np.linalg.norm(image - centre) < MOVED_MM:
        return None
    return affine(turn, centre, image)


def rigid_fit(points: np.ndarray, ends: np.ndarray) -> sitk.AffineTransform:
    """The rigid motion of points (N, 3) to ends (N, 3), LPS mm, that suits half of them best.

    N: at least three.
    """
    agree = np.ones(len(points), bool)
    for _ in range(ROUNDS):
        centre, image = points[agree].mean(axis=0), ends[agree].mean(axis=0)
        turn, _ = Rotation.align_vectors(ends[agree] - image, points[agree] - centre)
        fitted = affine(turn.as_matrix(), centre, image)
        missed = np.linalg.norm(moved(fitted, points) - ends, axis=1)
        agree = missed <= np.median(missed)
    return fitted


def moved(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    """Where a transform takes points (N, 3), LPS mm."""
    return np.array([transform.TransformPoint(p) for p in points.tolist()])


class _SurfaceFit:
    """Least squares between two distance maps, at points near the fixed lungs' surface."""

    SCALE = 100.0  # mm: makes matrix entries and shifts comparable to the optimiser

    def __init__(self, fixed: Volume, moving: Volume, image: Grid | None):
        self._fixed, self._moving, self._image = fixed, moving, image
        self._gradient = [
            Volume(np.gradient(moving.array, s, axis=2 - k).astype(np.float32), moving.grid)
            for k, s in enumerate(moving.grid.spacing)
        ]

    def __call__(
        self, start: sitk.AffineTransform, points: np.ndarray, steps: int
    ) -> tuple[float, sitk.AffineTransform]:
        """The cost of a point after so many steps from a start, and the affine.

        Of a point that counts: a start that turns the lungs out of the image gains nothing.
        """
        target, centre = self._fixed.sample(points), points.mean(axis=0)
        relative = points - centre
        matrix0 = np.reshape(start.GetMatrix(), (3, 3))
        shift0 = np.array(start.TransformPoint(centre))

        def unpack(parameters):
            return matrix0 + parameters[:9].reshape(3, 3) / self.SCALE, shift0 + parameters[9:]

        def moved(parameters):
            matrix, shift = unpack(parameters)
            return relative @ matrix.T + shift

        def residuals(parameters):
            where = moved(parameters)
            difference = self._weights(where) * (self._moving.sample(where) - target)
            return np.concatenate([difference, parameters[:9] / self.SCALE * 10.0])

        def jacobian(parameters):
            where = moved(parameters)
            g = np.stack([v.sample(where) for v in self._gradient], axis=-1)
            g *= self._weights(where)[:, None]
            rows = (g[:, :, None] * relative[:, None, :] / self.SCALE).reshape(len(g), 9)
            regularisation = np.eye(12)[:9] * (10.0 / self.SCALE)
            return np.concatenate([np.concatenate([rows, g], axis=1), regularisation])

        fit = optimize.least_squares(
            residuals, np.zeros(12), jac=jacobian, loss="soft_l1", f_scale=3.0, max_nfev=steps
        )
        matrix, shift = unpack(fit.x)
        counted = self._weights(moved(fit.x)).sum()
        return fit.cost / max(counted, 1.0), affine(matrix, centre, shift)

    def _weights(self, where: np.ndarray) -> np.ndarray:
        if self._image is None:
            return np.ones(len(where))
        return _away_from_edges(where, self._image).astype(float)


def landmark_alignment(
    fixed_points: np.ndarray, moving_points: np.ndarray, grid: Grid
) -> sitk.DisplacementFieldTransform:
    """The thin-plate spline that takes fixed points (N, 3) to moving points, LPS mm.

    N >= 4 points, not all in one plane, none twice (InputError otherwise). The spline is sampled on
    `grid`.
    """
    # Left to itself, the solver notices only exact singularity.
    thickness = np.linalg.svd(fixed_points - fixed_points.mean(axis=0), compute_uv=False)[2]
    nearest = spatial.distance.pdist(fixed_points).min()
    if thickness / np.sqrt(len(fixed_points)) < FLAT_MM or nearest < TWICE_MM:
        raise InputError(
            "The landmarks don't determine a motion: place at least four, not all in one plane "
            "and none twice."
        )
    # In three dimensions the thin-plate (biharmonic) kernel is the distance itself.
    spline = interpolate.RBFInterpolator(
        fixed_points, moving_points - fixed_points, kernel="linear", degree=1
    )
    points = grid.points()
    field = spline(points.reshape(-1, 3)).reshape(points.shape)
    return DisplacementField(field.astype(np.float32), grid).to_transform()


def affine(matrix: np.ndarray, centre: np.ndarray, image: np.ndarray) -> sitk.AffineTransform:
    """The affine with this matrix that takes `centre` to `image` (LPS mm)."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(np.asarray(matrix, dtype=float).ravel().tolist())
    transform.SetTranslation((np.asarray(image) - matrix @ np.asarray(centre)).tolist())
    return transform


def _inside(distance: Volume) -> np.ndarray:
    """Points (N, 3), LPS mm, within the lungs, evenly chosen."""
    return Volume(distance.array <= 0, distance.grid).marked_points(most=INSIDE_POINTS)


def _boxes(fixed: np.ndarray, moving: np.ndarray, turn: np.ndarray) -> sitk.AffineTransform:
    """Maps the extent of fixed points onto that of moving points along the columns of `turn`."""
    (low_f, high_f), (low_m, high_m) = (
        np.percentile(points, (1, 99), axis=0) for points in (fixed, moving @ turn)
    )
    scale = np.clip((high_m - low_m) / (high_f - low_f), 0.5, 2.0)
    return affine(turn * scale, (low_f + high_f) / 2, turn @ (low_m + high_m) / 2)


def _away_from_edges(points: np.ndarray, grid: Grid) -> np.ndarray:
    index = grid.to_index(points)
    margin = EDGE_MM / np.asarray(grid.spacing)
    return ((index > margin) & (index < np.asarray(grid.size) - 1 - margin)).all(axis=-1)
