"""Images and displacement fields that know where they are in the patient: array + grid.

Everything here is in LPS world millimetres, the frame of DICOM, ITK and SimpleITK. Points and
vectors are ordered (x, y, z); arrays are ordered (z, y, x) as SimpleITK's
``GetArrayFromImage`` gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import SimpleITK as sitk


@dataclass(frozen=True)
class Grid:
    """A regular lattice of voxel centres in the world.

    size: voxels along (x, y, z); spacing: mm along (x, y, z); origin: LPS mm of voxel (0, 0, 0);
    direction: 3x3, whose columns are the world directions of the index axes.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def __post_init__(self):
        size = tuple(int(n) for n in self.size)
        spacing = tuple(float(s) for s in self.spacing)
        origin = tuple(float(o) for o in self.origin)
        direction = tuple(float(d) for d in np.asarray(self.direction, dtype=float).ravel())
        if len(size) != 3 or min(size) < 1:
            raise ValueError(f"A grid needs three positive sizes, got {self.size}.")
        if len(spacing) != 3 or not np.isfinite(spacing).all() or min(spacing) <= 0:
            raise ValueError(f"A grid needs three positive spacings in mm, got {self.spacing}.")
        if len(origin) != 3 or not np.isfinite(origin).all():
            raise ValueError(f"A grid needs a finite origin in LPS mm, got {self.origin}.")
        if (
            len(direction) != 9
            or not np.isfinite(direction).all()
            or abs(np.linalg.det(np.reshape(direction, (3, 3)))) < 1e-6
        ):
            raise ValueError(f"A grid needs an invertible 3x3 direction, got {self.direction}.")
        # The dataclass is frozen: store the checked plain tuples past its guard.
        self.__dict__.update(size=size, spacing=spacing, origin=origin, direction=direction)

    @classmethod
    def of_image(cls, image: sitk.Image) -> Grid:
        """The grid of a 3-D SimpleITK image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @classmethod
    def covering(cls, points: np.ndarray, spacing: float, margin: float = 0.0) -> Grid:
        """The world-aligned grid of this spacing that covers points (N, 3) and a margin, all mm."""
        lower = np.min(points, axis=0) - margin
        upper = np.max(points, axis=0) + margin
        size = np.ceil((upper - lower) / spacing - 1e-6).astype(int) + 1
        origin = (lower + upper) / 2 - (size - 1) * spacing / 2
        return cls(tuple(size), (spacing,) * 3, tuple(origin))

    def coarsened(self, factor: int) -> Grid:
        """The grid whose voxels are the centres of blocks of factor^3 voxels; sizes must divide."""
        if any(n % factor for n in self.size):
            raise ValueError(f"A grid of {self.size} voxels has no blocks of {factor}^3.")
        size = tuple(n // factor for n in self.size)
        spacing = tuple(s * factor for s in self.spacing)
        origin = self.to_world(np.full(3, (factor - 1) / 2))
        return Grid(size, spacing, tuple(origin), self.direction)

    def reference_image(self) -> sitk.Image:
        """An empty image on this grid, for ITK's filters that take their lattice from an image."""
        return _with_grid(sitk.Image(self.size, sitk.sitkUInt8), self)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The array shape (z, y, x)."""
        return self.size[::-1]

    @property
    def matrix(self) -> np.ndarray:
        """4x4, from index (x, y, z) to LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    def to_world(self, index: np.ndarray) -> np.ndarray:
        """LPS mm (..., 3) of continuous indices (..., 3), both ordered (x, y, z)."""
        return np.asarray(index, dtype=float) @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def to_index(self, points: np.ndarray) -> np.ndarray:
        """Continuous indices (..., 3) of LPS points (..., 3) in mm, both ordered (x, y, z)."""
        inverse = np.linalg.inv(self.matrix)
        return np.asarray(points, dtype=float) @ inverse[:3, :3].T + inverse[:3, 3]

    def points(self) -> np.ndarray:
        """LPS mm of every voxel centre, shape (z, y, x, 3), float64."""
        matrix = self.matrix
        axes = [np.arange(n)[:, None] * matrix[:3, k] for k, n in enumerate(self.size)]
        return axes[2][:, None, None] + axes[1][None, :, None] + axes[0][None, None] + matrix[:3, 3]

    def corners(self) -> np.ndarray:
        """LPS mm of the eight outermost voxel centres, shape (8, 3)."""
        index = np.stack(np.meshgrid(*[(0, n - 1) for n in self.size], indexing="ij"), -1)
        return self.to_world(index.reshape(-1, 3))

    def contains(self, points: np.ndarray, margin: float = 0.5) -> np.ndarray:
        """Which LPS points (N, 3) lie within the voxels (margin in voxels round the centres)."""
        index = self.to_index(points)
        inside = np.ones(index.shape[:-1], bool)
        for k, size in enumerate(self.size):  # numpy reduces short axes slowly
            inside &= (index[..., k] >= -margin) & (index[..., k] <= size - 1 + margin)
        return inside

    def matches(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether the two lattices have the same size and corners within tolerance (mm)."""
        return self.size == other.size and bool(
            np.abs(self.corners() - other.corners()).max() <= tolerance
        )


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image: array (z, y, x) and the grid that it lies on."""

    array: np.ndarray
    grid: Grid

    def __post_init__(self):
        if self.array.shape != self.grid.shape:
            raise ValueError(
                f"The array has shape {self.array.shape}, its grid {self.grid.shape} (z, y, x)."
            )

    @classmethod
    def of_image(cls, image: sitk.Image) -> Volume:
        """Array (own copy) and grid of a 3-D scalar SimpleITK image."""
        return cls(sitk.GetArrayFromImage(image), Grid.of_image(image))

    def to_image(self) -> sitk.Image:
        """The same as a SimpleITK image."""
        array = self.array.view(np.uint8) if self.array.dtype == bool else self.array
        return _with_grid(sitk.GetImageFromArray(array), self.grid)

    def part(self, z: slice, y: slice, x: slice) -> Volume:
        """The voxels of these index ranges, with a start and a stop each, where they are."""
        array = np.ascontiguousarray(self.array[z, y, x])
        origin = self.grid.to_world((x.start, y.start, z.start))
        grid = Grid(array.shape[::-1], self.grid.spacing, tuple(origin), self.grid.direction)
        return Volume(array, grid)

    def padded(self, points: np.ndarray | None = None) -> Volume:
        """The same with zeros around: a rim, and as many as hold these LPS points (N, 3), mm."""
        corners = self.grid.corners()
        held = corners if points is None else np.concatenate((corners, points))
        index = self.grid.to_index(held).round(3)
        before = 1 - np.floor(index.min(axis=0)).astype(int)
        after = 2 + np.ceil(index.max(axis=0)).astype(int) - self.grid.size
        array = np.pad(self.array, list(zip(before[::-1], after[::-1], strict=True)))
        origin = tuple(self.grid.to_world(-before))
        return Volume(
            array, Grid(array.shape[::-1], self.grid.spacing, origin, self.grid.direction)
        )

    def along_patient(self) -> Volume:
        """The same voxels, their axes in the order and direction that is nearest to L, P, S."""
        direction = np.reshape(self.grid.direction, (3, 3))
        axes = max(permutations(range(3)), key=lambda a: np.abs(direction[range(3), a]).sum())
        signs = np.sign(direction[range(3), axes])
        array = self.array.transpose([2 - a for a in axes[::-1]])
        array = np.flip(array, [2 - k for k in range(3) if signs[k] < 0])
        last = np.zeros(3)
        last[list(axes)] = np.where(signs < 0, np.array(array.shape[::-1]) - 1, 0)
        spacing = tuple(self.grid.spacing[a] for a in axes)
        origin = tuple(self.grid.to_world(last))
        return Volume(array, Grid(array.shape[::-1], spacing, origin, direction[:, axes] * signs))

    def box(self) -> tuple[slice, slice, slice]:
        """The index ranges (z, y, x) that hold all voxels that are not zero; empty without any."""
        found = [slice(0, n) for n in self.array.shape]
        for axis in range(3):  # each looks only at what the ones before have left
            others = tuple(k for k in range(3) if k != axis)
            along = np.flatnonzero(self.array[tuple(found)].any(axis=others))
            found[axis] = slice(int(along[0]), int(along[-1]) + 1) if len(along) else slice(0, 0)
        return tuple(found)

    def marked_points(self, most: int | None = None) -> np.ndarray:
        """Where voxels are not zero, (N, 3) in LPS mm; at most `most` of them, always the same."""
        box = self.box()
        part, step = self.array[box], 1
        if most is not None:  # thin out a fine image first, but no layer of four voxels is lost
            step = min(4, max(1, int((np.count_nonzero(part) / most / 10) ** (1 / 3))))
        part = part[::step, ::step, ::step]
        flat = np.flatnonzero(part)
        if most is not None and len(flat) > most:  # by chance: a stride could meet the rows'
            flat = np.sort(np.random.default_rng(0).choice(flat, most, replace=False))
        index = np.transpose(np.unravel_index(flat, part.shape)) * step + [s.start for s in box]
        return self.grid.to_world(index[:, ::-1])

    def on_grid(self, grid: Grid) -> Volume:
        """The nearest voxel's value at each voxel of another grid, zero beyond this volume."""
        nearest = _resampled(self.to_image(), grid, sitk.sitkNearestNeighbor)
        return Volume(nearest.astype(self.array.dtype, copy=False), grid)

    def resampled(self, grid: Grid) -> Volume:
        """Linear between the voxels, at each voxel of another grid; zero beyond this volume."""
        image = sitk.Cast(self.to_image(), sitk.sitkFloat32)
        return Volume(_resampled(image, grid, sitk.sitkLinear), grid)

    def sample(
        self, points: np.ndarray, order: int = 1, outside: float | None = None
    ) -> np.ndarray:
        """Values at LPS points (..., 3) in mm: linear (order 1) or nearest (order 0).

        Beyond the outermost voxel centres the edge value continues; `outside`, where given,
        replaces it from half a voxel further on, where SimpleITK's Resample puts its default value.
        """
        values = _interpolate(self.array, self.grid, points, order)
        if outside is None:
            return values
        return np.where(self.grid.contains(points), values, np.float32(outside))


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """Where to sample in moving for each point of fixed: moving point = x + u(x).

    array: (z, y, x, 3), components (x, y, z) in LPS mm, float32; grid: the lattice of its nodes.
    This is the resampling direction: SimpleITK's DisplacementFieldTransform and Slicer's
    "from parent".
    """

    array: np.ndarray
    grid: Grid

    def __post_init__(self):
        if self.array.shape != (*self.grid.shape, 3):
            raise ValueError(
                f"The field has shape {self.array.shape}, its grid needs {(*self.grid.shape, 3)}."
            )

    @classmethod
    def zeros(cls, grid: Grid) -> DisplacementField:
        """The identity on this grid."""
        return cls(np.zeros((*grid.shape, 3), np.float32), grid)

    @classmethod
    def of_transform(cls, transform: sitk.Transform, grid: Grid) -> DisplacementField:
        """Any SimpleITK transform (fixed point -> moving point, LPS mm), sampled on this grid."""
        filter_ = sitk.TransformToDisplacementFieldFilter()
        filter_.SetOutputPixelType(sitk.sitkVectorFloat64)
        filter_.SetReferenceImage(grid.reference_image())
        return cls.of_image(filter_.Execute(transform))

    @classmethod
    def of_image(cls, image: sitk.Image) -> DisplacementField:
        """A 3-component SimpleITK vector image of LPS displacements in mm."""
        return cls(sitk.GetArrayFromImage(image).astype(np.float32), Grid.of_image(image))

    def to_image(self) -> sitk.Image:
        """A vector image of LPS displacements in mm (float64, as SimpleITK's transform wants)."""
        image = sitk.GetImageFromArray(self.array.astype(np.float64), isVector=True)
        return _with_grid(image, self.grid)

    def to_transform(self) -> sitk.DisplacementFieldTransform:
        """The field as a SimpleITK transform (the identity outside its grid)."""
        return sitk.DisplacementFieldTransform(self.to_image())

    def sample(self, points: np.ndarray) -> np.ndarray:
        """Displacements (..., 3) in mm at LPS points (..., 3); the edge value beyond the grid."""
        components = np.moveaxis(self.array, -1, 0)
        return np.stack([_interpolate(u, self.grid, points) for u in components], axis=-1)

    def transform_points(self, points: np.ndarray) -> np.ndarray:
        """The moving points (..., 3) that belong to fixed points (..., 3), LPS mm."""
        return np.asarray(points, dtype=float) + self.sample(points)

    def resampled(self, grid: Grid) -> DisplacementField:
        """The same motion on another lattice (linear; the edge value beyond this one)."""
        return DisplacementField(self.sample(grid.points()).astype(np.float32), grid)

    def warp(self, moving: Volume, grid: Grid) -> Volume:
        """The moving image seen on `grid` of the fixed one: linear; its lowest value beyond it.

        In float32, because SimpleITK cuts off the fractions of whole numbers.
        """
        where = grid.reference_image(), self.to_transform()
        lowest = float(moving.array.min())
        warped = sitk.Resample(moving.to_image(), *where, sitk.sitkLinear, lowest, sitk.sitkFloat32)
        return Volume(sitk.GetArrayFromImage(warped), grid)

    def scaled(self, strength: float) -> DisplacementField:
        """The motion multiplied by `strength` (0: identity, 1: itself)."""
        return DisplacementField((self.array * np.float32(strength)), self.grid)


def leaves(transform: sitk.Transform) -> Iterator[sitk.Transform]:
    """The parts of a transform in the order in which they act; itself where it is no composite."""
    if transform.GetTransformEnum() != sitk.sitkComposite:
        yield transform.Downcast()
        return
    composite = sitk.CompositeTransform(transform)
    for number in reversed(range(composite.GetNumberOfTransforms())):
        yield from leaves(composite.GetNthTransform(number))


def _interpolate(array: np.ndarray, grid: Grid, points: np.ndarray, order: int = 1) -> np.ndarray:
    """Values of array (z, y, x) at LPS points (..., 3), the edge value continued; float32."""
    from scipy import ndimage  # takes half a second, for which Slicer would wait when it starts

    index = grid.to_index(points)[..., ::-1]
    if order == 0:
        last = np.array(array.shape) - 1
        nearest = np.clip(np.floor(index + 0.5), 0, last).astype(np.intp)
        return array[tuple(np.moveaxis(nearest, -1, 0))].astype(np.float32)
    flat = index.reshape(-1, 3).T
    values = ndimage.map_coordinates(
        array, flat, np.float32, order=order, mode="nearest", prefilter=False
    )
    return values.reshape(index.shape[:-1])


def _resampled(image: sitk.Image, grid: Grid, interpolator: int) -> np.ndarray:
    """The image at the voxels of a grid, (z, y, x); zero beyond it."""
    there = sitk.Resample(image, grid.reference_image(), sitk.Transform(), interpolator)
    return sitk.GetArrayFromImage(there)


def _with_grid(image: sitk.Image, grid: Grid) -> sitk.Image:
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image
