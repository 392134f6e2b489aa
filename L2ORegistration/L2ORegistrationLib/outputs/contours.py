"""RT structure sets through a transform: contours resliced on the slices of the reference.

A structure's contours become a signed distance on their own planes, linear between the planes
(shape-based interpolation: Raya and Udupa, IEEE TMI 9, 1990) and half a plane's distance longer
at its ends, as dose planning systems have it. Its zero line on every slice of the reference is
the moved contour.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Grid
from ..core.paths import existing
from .requires import pydicom

STRUCTURES_SOP = "1.2.840.10008.5.1.4.1.1.481.3"
_PIXEL_MM = 0.5  # between the points where the signed distance is known
_MARGIN_MM = 6.0
_LEAST_PIXELS = 0.1  # of the reference: contours around less are where two shapes touch


@dataclass(frozen=True, eq=False)
class Structure:
    """One region of interest: closed contours, each (N, 3), LPS mm, in parallel planes."""

    name: str
    colour: tuple[int, int, int]
    contours: list[np.ndarray] = field(default_factory=list)

    def shape(self) -> Shape:
        """The solid that the contours enclose."""
        return Shape.of(self)


@dataclass(frozen=True, eq=False)
class Shape:
    """A solid as a signed distance (planes, v, u), mm, negative inside, on a grid of its own."""

    distance: np.ndarray
    origin: np.ndarray
    axes: np.ndarray  # rows: unit vectors of u, v and the normal
    steps: np.ndarray  # mm along u, v and the normal

    @classmethod
    def of(cls, structure: Structure) -> Shape:
        """Raises InputError for a structure without area, or whose planes are not parallel."""
        contours = [c for c in structure.contours if len(c) > 2]
        if not contours:
            raise InputError(f"The structure {structure.name} is empty: it encloses no area.")
        axes = _axes(contours)
        flat = [c @ axes.T for c in contours]
        if max(np.ptp(c[:, 2]) for c in flat) > 0.5:
            raise InputError(f"The contours of {structure.name} do not lie in parallel planes.")
        heights = np.array([c[:, 2].mean() for c in flat])
        planes = np.unique(np.round(heights, 1))
        gaps = np.diff(planes)
        step = float(np.median(gaps[gaps > 0.2])) if (gaps > 0.2).any() else 3.0
        if len(gaps):
            step = min(step, float(gaps[gaps > 0.2].min()) * 1.2)
        numbers = np.rint((heights - heights.min()) / step).astype(int) + 1
        count = numbers.max() + 2
        low = np.min([c[:, :2].min(axis=0) for c in flat], axis=0) - _MARGIN_MM
        high = np.max([c[:, :2].max(axis=0) for c in flat], axis=0) + _MARGIN_MM
        size = np.ceil((high - low) / _PIXEL_MM).astype(int) + 1
        u, v = (low[k] + _PIXEL_MM * np.arange(size[k]) for k in range(2))
        distance = np.full((count, size[1], size[0]), np.nan, np.float32)
        for number in np.unique(numbers):
            polygons = [c[:, :2] for c, n in zip(flat, numbers, strict=True) if n == number]
            distance[number] = _signed_distance(polygons, u, v)
        known = ~np.isnan(distance[:, 0, 0])
        for k in np.flatnonzero(~known):  # an empty plane ends the solid half way to it
            beside = [n for n in (k - 1, k + 1) if 0 <= n < count and known[n]]
            distance[k] = np.min([np.abs(distance[n]) for n in beside], 0) if beside else 99.0
        origin = np.array([low[0], low[1], heights.min() - step])
        return cls(distance, origin, axes, np.array([_PIXEL_MM, _PIXEL_MM, step]))

    def at(self, points: np.ndarray) -> np.ndarray:
        """The signed distance at points (..., 3), LPS mm; positive beyond what is known."""
        from scipy import ndimage

        index = (points @ self.axes.T - self.origin) / self.steps
        flat = index.reshape(-1, 3)[:, ::-1].T
        values = ndimage.map_coordinates(self.distance, flat, order=1, cval=_MARGIN_MM)
        return values.reshape(index.shape[:-1])

    def bounds(self) -> np.ndarray:
        """The corners (8, 3) of the box that holds the solid, LPS mm."""
        size = np.array(self.distance.shape[::-1]) - 1
        corners = np.array(list(np.ndindex(2, 2, 2))) * size * self.steps + self.origin
        return corners @ self.axes


def read_structures(path: str | Path) -> tuple[list[Structure], object]:
    """The structures of a DICOM RT structure set, and the data set itself.

    Raises InputError for other files and for a set without a closed contour.
    """
    data = pydicom().dcmread(existing(path), force=True)
    if data.get("SOPClassUID") != STRUCTURES_SOP:
        raise InputError(f"{path} is not a DICOM RT structure set.")
    names = {int(roi.ROINumber): str(roi.ROIName) for roi in data.StructureSetROISequence}
    found = []
    for roi in data.get("ROIContourSequence", []):
        contours = [
            np.reshape(np.asarray(c.ContourData, dtype=float), (-1, 3))
            for c in roi.get("ContourSequence", [])
            if c.ContourGeometricType.startswith("CLOSED_PLANAR")
        ]
        colour = tuple(int(c) for c in roi.get("ROIDisplayColor", (255, 0, 0)))
        name = names.get(int(roi.ReferencedROINumber), str(roi.ReferencedROINumber))
        found.append(Structure(name, colour, contours))
    if not any(s.contours for s in found):
        raise InputError(f"{path} holds no closed contour: there is no structure to move.")
    return found, data


def frame_of_reference(structures) -> str:
    """The UID of the frame that a structure set's contours are in."""
    return str(structures.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID)


def warp_structure(structure: Structure, motion: DisplacementField, target: Grid) -> Structure:
    """The structure on the slices (third axis) of the target grid.

    motion: target point -> source point, LPS mm. The result has no contours where the structure
    does not reach the target. Raises InputError for an empty structure.
    """
    from contourpy import contour_generator

    shape = structure.shape()
    box = _box(shape, motion, target)
    contours = []
    if box is None:
        return Structure(structure.name, structure.colour, contours)
    (x0, y0, z0), (x1, y1, z1) = box
    x, y = np.arange(x0, x1 + 0.1, 0.5), np.arange(y0, y1 + 0.1, 0.5)  # small structures need it
    for z in range(z0, z1 + 1):
        index = np.empty((len(y), len(x), 3))
        index[..., 0], index[..., 1] = np.meshgrid(x, y)
        index[..., 2] = z
        values = shape.at(motion.transform_points(target.to_world(index)))
        values[[0, -1]] = np.maximum(values[[0, -1]], 1e-3)  # lines close at the image's border
        values[:, [0, -1]] = np.maximum(values[:, [0, -1]], 1e-3)
        for line in contour_generator(x, y, values).lines(0.0):
            if len(line) > 3 and _area(line) > _LEAST_PIXELS:
                line = np.column_stack([line[:-1], np.full(len(line) - 1, z)])
                contours.append(target.to_world(line))
    return Structure(structure.name, structure.colour, contours)


def _box(shape: Shape, motion: DisplacementField, target: Grid):
    """First and last index (x, y, z) of the target where the shape may lie; None: nowhere."""
    stride = [max(1, int(4.0 / s)) for s in target.spacing]
    axes = [np.unique(np.append(np.arange(0, n, k), n - 1)) for n, k in zip(target.size, stride)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    near = shape.at(motion.transform_points(target.to_world(index))) < _MARGIN_MM - 0.01
    if not near.any():
        return None
    low = np.maximum(index[near].min(axis=0) - stride, 0)
    return low, np.minimum(index[near].max(axis=0) + stride, np.array(target.size) - 1)


def _area(line: np.ndarray) -> float:
    """What a closed line (N, 2) encloses."""
    x, y = line.T
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2


def _axes(contours: list[np.ndarray]) -> np.ndarray:
    """Unit vectors (3, 3) of u, v and the normal of the contours' planes; upright if they are."""
    largest = max(contours, key=lambda c: np.ptp(c, axis=0).max())
    normal = np.linalg.svd(largest - largest.mean(axis=0), full_matrices=False)[2][2]
    normal = normal * (1 if normal[np.abs(normal).argmax()] > 0 else -1)
    if normal[2] > 0.99999:
        return np.eye(3)
    u = np.cross(np.eye(3)[np.abs(normal).argmin()], normal)
    u /= np.linalg.norm(u)
    return np.stack([u, np.cross(normal, u), normal])


def _signed_distance(polygons: list[np.ndarray], u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Distance (v, u) in mm to the polygons' edges, negative inside (even-odd: holes are holes)."""
    x, y = np.meshgrid(u, v)
    nearest, inside = np.full(x.shape, np.inf), np.zeros(x.shape, bool)
    for polygon in polygons:
        for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            dx, dy = bx - ax, by - ay
            length = dx * dx + dy * dy
            if length == 0:
                continue
            along = np.clip(((x - ax) * dx + (y - ay) * dy) / length, 0, 1)
            np.minimum(
                nearest, (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2, out=nearest
            )
            if dy:
                inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * dx / dy)
    return np.where(inside, -1, 1) * np.sqrt(nearest)
