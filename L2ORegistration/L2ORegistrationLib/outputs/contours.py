"""RT structure sets through a transform: contours resliced on the slices of the reference.

A structure's contours become a signed distance on their own planes, linear between the planes
(shape-based interpolation: Raya and Udupa, IEEE TMI 9, 1990) and half a plane's distance longer
at its ends, as dose planning systems have it. It goes on where a plane was left out, and so
where only every second slice was drawn; further apart lie two parts, each with ends of its own.
Its zero line on every slice of the reference is the moved contour.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Grid
from ..core.paths import existing
from .requires import read_dicom

STRUCTURES_SOP = "1.2.840.10008.5.1.4.1.1.481.3"
CLOSED, XOR = "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"  # which says that one in another is a hole
_PIXEL_MM = 0.5, 1.0  # between the points where the signed distance is known, of large shapes more
_PIXELS = 300  # along a side, as long as they are smaller than the larger of these
_MARGIN_MM = 6.0
_SAMPLE_MM = 0.5  # between points of an edge
_LEAST_PIXELS = 0.1  # of the reference: contours around less are where two shapes touch
_STRAIGHT_MM = 0.01  # takes 0.03 % of the area of a ring of 3 mm, 5/6 of the points of a body
_SAME_PLANE_MM = 0.2  # summation noise and rounded coordinates are less, the thinnest slices more
_ONE_PLANE_MM = 3.0  # the distance of planes where there is no other to tell it
_SLICES_MM = 10.0  # no slices are drawn that far apart: wider gaps do not tell the usual distance
_PARTS = 0.125, 0.375, 0.625, 0.875  # of the way between two planes, where areas are measured
_LEFT_OUT = 2.5  # usual distances: one plane left out between two is filled, two are a gap


@dataclass(frozen=True, eq=False)
class Structure:
    """One region of interest: closed contours, each (N, 3), LPS mm, in parallel planes."""

    name: str
    colour: tuple[int, int, int]
    contours: list[np.ndarray] = field(default_factory=list)
    number: int = 0  # of the region in its set; names need not differ
    kind: str = CLOSED  # of its contours, or XOR; they are read alike, but not by all programs

    def shape(self) -> Shape:
        """The solid that the contours enclose."""
        return Shape.of(self)


@dataclass(frozen=True, eq=False)
class Shape:
    """A solid as a signed distance (planes, v, u), mm, negative inside, on a grid of its own."""

    distance: np.ndarray
    origin: np.ndarray  # mm along u and v
    pixel: float  # mm along u and v
    heights: np.ndarray  # of the planes, mm along the normal, ascending and as uneven as drawn
    axes: np.ndarray  # rows: unit vectors of u, v and the normal

    @classmethod
    def of(cls, structure: Structure) -> Shape:
        """Raises InputError for a structure without area, or whose planes are not parallel."""
        # Three points at one place are a mark of some program, and no shape.
        contours = [c for c in structure.contours if len(c) > 2 and np.ptp(c, axis=0).any()]
        if not contours:
            raise InputError(f"The structure {structure.name} is empty: it encloses no area.")
        axes = _axes(contours)
        flat = [c @ axes.T for c in contours]
        if max(np.ptp(c[:, 2]) for c in flat) > 0.5:
            raise InputError(f"The contours of {structure.name} do not lie in parallel planes.")
        low = np.min([c[:, :2].min(axis=0) for c in flat], axis=0) - _MARGIN_MM
        high = np.max([c[:, :2].max(axis=0) for c in flat], axis=0) + _MARGIN_MM
        pixel = float(np.clip((high - low).max() / _PIXELS, *_PIXEL_MM))
        size = np.ceil((high - low) / pixel).astype(int) + 1
        u, v = (low[k] + pixel * np.arange(size[k]) for k in range(2))
        heights, planes = _planes(flat)
        gaps = np.diff(heights)
        usual = _usual(gaps)
        apart = np.concatenate([[True], gaps > _LEFT_OUT * usual, [True]])
        layers = []
        for k, (height, polygons) in enumerate(zip(heights, planes, strict=True)):
            distance = _signed_distance(polygons, u, v).astype(np.float32)
            # A plane with nothing inside ends the solid half way to it. With a bit more than
            # the distance a slice right there, or on that plane, is outside, not on the edge.
            empty = np.abs(distance) + 1e-3
            if apart[k]:
                layers.append((height - usual, empty))
            layers.append((height, distance))
            if apart[k + 1]:
                layers.append((height + usual, empty))
        heights, distances = zip(*layers, strict=True)
        return cls(np.stack(distances), low, pixel, np.array(heights), axes)

    def millilitres(self) -> float:
        """What it encloses."""
        found = 0.0
        for below, above, gap in zip(self.distance, self.distance[1:], np.diff(self.heights)):
            for part in _PARTS:
                distance = (1 - part) * below + part * above
                covered = np.clip(0.5 - distance / self.pixel, 0, 1).sum() * self.pixel**2
                found += float(covered) * gap / len(_PARTS)
        return found / 1000

    def at(self, points: np.ndarray) -> np.ndarray:
        """The signed distance at points (..., 3), LPS mm; positive beyond what is known."""
        from scipy import ndimage

        along = points.reshape(-1, 3) @ self.axes.T
        known = np.clip(along[:, 2], self.heights[0], self.heights[-1])
        plane = np.interp(known, self.heights, np.arange(len(self.heights)))
        u, v = ((along[:, :2] - self.origin) / self.pixel).T
        values = ndimage.map_coordinates(self.distance, [plane, v, u], order=1, cval=_MARGIN_MM)
        return (values + np.abs(along[:, 2] - known)).reshape(points.shape[:-1])


def read_structures(path: str | Path) -> tuple[list[Structure], object]:
    """The structures of a DICOM RT structure set, and the data set itself.

    Raises InputError for other files, for a set without a closed contour and for one that is
    damaged.
    """
    data = read_dicom(existing(path))
    if data.get("SOPClassUID") != STRUCTURES_SOP:
        raise InputError(f"{path} is not a DICOM RT structure set.")
    try:
        found = _structures(data, path)
    except (AttributeError, EOFError, OSError) as error:  # of a file that was cut off
        raise InputError(f"{path} is damaged or incomplete: copy or export it again.") from error
    if not any(s.contours for s in found):
        raise InputError(f"{path} holds no closed contour: there is no structure to move.")
    return found, data


def _structures(data, path: str | Path) -> list[Structure]:
    """The structures of a data set that was read from this path."""
    named = data.get("StructureSetROISequence", [])
    names = {int(roi.ROINumber): str(roi.ROIName) for roi in named}
    found = []
    for roi in data.get("ROIContourSequence", []):
        name = names.get(int(roi.ReferencedROINumber), str(roi.ReferencedROINumber))
        closed = [
            c for c in roi.get("ContourSequence", []) if c.ContourGeometricType in (CLOSED, XOR)
        ]
        contours = [_points(c, f"a contour of {name} in {path}") for c in closed]
        kind = XOR if any(c.ContourGeometricType == XOR for c in closed) else CLOSED
        if kind == CLOSED:
            contours = _once(contours)
        colour = tuple(int(c) for c in roi.get("ROIDisplayColor", (255, 0, 0)))
        found.append(Structure(name, colour, contours, int(roi.ReferencedROINumber), kind))
    return found


def _once(contours: list[np.ndarray]) -> list[np.ndarray]:
    """Contours (N, 3) without copies of others, wherever these begin and whichever way they turn.

    Twice the same would be a hole of the same size, which only contours can mean that say that they
    are combined by exclusion (XOR): PS3.3, C.8.8.6.3.
    """
    found: dict[bytes, np.ndarray] = {}
    for contour in contours:
        found.setdefault(np.unique(np.round(contour, 2) + 0.0, axis=0).tobytes(), contour)
    return list(found.values())


def _points(contour, what: str) -> np.ndarray:
    """The points (N, 3) of an item of a ContourSequence, LPS mm; what: names it in the error."""
    try:
        data = contour.ContourData
        if isinstance(data, bytes):  # more than 64 kB in explicit VR are written as UN: unknown
            data = data.decode("ascii").split("\\")
        return np.reshape(np.asarray_chkfinite(data, dtype=float), (-1, 3))
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"The coordinates of {what} cannot be read: export the structure set again."
        ) from error


def frame_of_reference(structures) -> str:
    """The UID of the frame that a structure set's contours are in; "" where it does not say."""
    named = structures.get("ReferencedFrameOfReferenceSequence")
    return str(named[0].get("FrameOfReferenceUID", "")) if named else ""


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
        return replace(structure, contours=contours)
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
                line = target.to_world(np.column_stack([line, np.full(len(line), z)]))
                line = _straightened(line)
                if len(line) > 3:  # else it was a sliver without width
                    contours.append(line[:-1])
    return replace(structure, contours=contours)


def left_out(structure: Structure, moved: Structure, target: Grid) -> int:
    """How many of the target's slices between those with contours of `moved` have none.

    Where planes of the structure hardly overlap, half of the way between them may be empty. 0 for a
    structure that consists of parts far apart itself.
    """
    contours = [c for c in structure.contours if len(c) > 2]
    gaps = np.diff(_planes([c @ _axes(contours).T for c in contours])[0])
    if not moved.contours or (gaps > _LEFT_OUT * _usual(gaps)).any():
        return 0
    slices = {round(float(target.to_index(c[0])[2])) for c in moved.contours}
    return max(slices) - min(slices) + 1 - len(slices)


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


def _straightened(line: np.ndarray) -> np.ndarray:
    """A closed line (N, 3), LPS mm, without points next to the straight lines between the others.

    Douglas and Peucker (Cartographica 10, 1973): of a span the point that is furthest off its
    chord stays and divides it, until all are within _STRAIGHT_MM. The start is its own end.
    """
    keep = np.zeros(len(line), bool)
    spans = [(0, len(line) - 1)]
    while spans:
        first, last = spans.pop()
        keep[[first, last]] = True
        if last - first < 2:
            continue
        chord, from_first = line[last] - line[first], line[first + 1 : last] - line[first]
        part = np.clip(from_first @ chord / max(chord @ chord, 1e-12), 0, 1)
        off = np.linalg.norm(from_first - part[:, None] * chord, axis=1)
        if off.max() > _STRAIGHT_MM:
            middle = first + 1 + int(off.argmax())
            spans += [(first, middle), (middle, last)]
    return line[keep]


def _planes(flat: list[np.ndarray]) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Heights of the planes, ascending mm, and the polygons (N, 2) on each, of contours (N, 3).

    The contours of one plane are seldom at the same number: their means differ by noise.
    """
    heights = np.array([c[:, 2].mean() for c in flat])
    order = np.argsort(heights)
    groups = np.split(order, np.flatnonzero(np.diff(heights[order]) > _SAME_PLANE_MM) + 1)
    return (
        np.array([heights[group].mean() for group in groups]),
        [[flat[k][:, :2] for k in group] for group in groups],
    )


def _usual(gaps: np.ndarray) -> float:
    """The usual distance of neighbouring planes, mm, of the gaps (N - 1,) between N planes.

    The median, the lower of two: half of what was drawn may have every second slice only.
    """
    gaps = gaps[gaps <= _SLICES_MM]
    return float(np.percentile(gaps, 50, method="lower")) if len(gaps) else _ONE_PLANE_MM


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
    """Distance (v, u) in mm to the polygons' edges, negative inside (even-odd: holes are holes).

    To the edge of the nearest of points at most _SAMPLE_MM apart: of two edges that are as near it
    may be the further one, by less than half of _SAMPLE_MM.
    """
    from scipy.spatial import cKDTree

    begins, ends = (
        np.concatenate(points) for points in (polygons, [np.roll(p, -1, axis=0) for p in polygons])
    )
    edges = (begins != ends).any(axis=1)
    begins, ends = begins[edges], ends[edges]
    ways = ends - begins
    lengths = np.linalg.norm(ways, axis=1)
    edge, part, parts = _each(np.ceil(lengths / _SAMPLE_MM).astype(int))
    tree = cKDTree(begins[edge] + ((part + 0.5) / parts)[:, None] * ways[edge])
    points = np.stack(np.meshgrid(u, v), axis=-1)
    edge = edge[tree.query(points, workers=-1)[1]]
    begin, way = begins[edge], ways[edge]
    along = np.clip(((points - begin) * way).sum(axis=-1) / lengths[edge] ** 2, 0, 1)
    distance = np.linalg.norm(points - begin - along[..., None] * way, axis=-1)
    return np.where(_inside(begins, ends, u, v), -distance, distance)


def _inside(begins: np.ndarray, ends: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether the grid's points (v, u) have an odd number of edges to the right of them.

    begins, ends: (N, 2), of the edges. Each end must be another's begin to the last digit: a row at
    that height then crosses both of them or none.
    """
    rows = np.sort(np.searchsorted(v, np.stack((begins[:, 1], ends[:, 1]))), axis=0)
    edge, row, _ = _each(rows[1] - rows[0])  # an edge crosses the rows from its first to its last
    row = row + rows[0][edge]
    (x, y), (dx, dy) = begins[edge].T, (ends - begins)[edge].T
    crossed = np.zeros((len(v), len(u) + 1), bool)
    np.logical_xor.at(crossed, (row, np.searchsorted(u, x + (v[row] - y) * dx / dy)), True)
    return np.logical_xor.accumulate(crossed[:, ::-1], axis=1)[:, -2::-1]


def _each(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each part of things with so many parts (N,): whose it is, its number, and how many."""
    whose = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(whose)) - (np.cumsum(counts) - counts)[whose]
    return whose, number, counts[whose]
