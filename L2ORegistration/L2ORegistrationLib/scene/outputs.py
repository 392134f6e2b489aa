"""What follows a registration, as nodes: inverse transform, ventilation maps, a point's partner.

Each is a Task, for a window that stays free while it is computed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..core.errors import InputError
from ..core.geometry import Volume
from ..outputs.followup import volume_change
from ..outputs.points import to_fixed, to_moving, uncertainty
from . import confidence, landmarks, nodes, transforms, volumes
from .nodes import PREFIX
from .tasks import Task

_ROUND_TRIP = PREFIX + "RoundTrip."
_LUNG_POINTS = 300_000
# Viridis (van der Walt and Smith, 2015), at five places.
_FILLING = [
    (0.267, 0.005, 0.329),
    (0.229, 0.322, 0.546),
    (0.128, 0.567, 0.551),
    (0.369, 0.789, 0.383),
    (0.993, 0.906, 0.144),
]
_NO_LUNG = -1.0  # less than any part of a lung can gain
_MAPS = {"jacobian": "Ventilation by Jacobian", "hu": "Ventilation by HU"}
_UNIT = "volume gained / volume at expiration"
_COLUMNS = {  # of a region's row; short, because a dock is narrow
    "ml": lambda row: f"{row['volume_ml']:.0f}",
    "gain": lambda row: f"{row['change_ml']:+.0f}",
    "J": lambda row: f"{100 * row['jacobian']:+.0f} %",
    "HU": lambda row: f"{100 * row['hu']:+.0f} %",
    "low": lambda row: f"{100 * row['low']:.0f} %",
}


def lungs_of(fixed, given=None):
    """A function without a node in it that finds the mask of the fixed lungs.

    given: a mask node or (segmentation, segment), a Volume, or None: automatic.
    """
    if given is not None:
        return (lambda: given) if isinstance(given, Volume) else volumes.mask_reader(given)
    image = volumes.to_volume(fixed)

    def found() -> Volume:
        from ..engine.images.lungs import lung_mask

        return lung_mask(image)

    return found


def backward_of(node):
    """The newest registration of these two images the other way round; None without one.

    An inverse, which would agree with its original wherever that is wrong, is none.
    """
    there = transforms.roles(node)
    for other in reversed(nodes.of_class(node.GetScene(), "vtkMRMLTransformNode")):
        back = transforms.roles(other) == there[::-1] and None not in there
        inverse = any(name.startswith(_ROUND_TRIP) for name in other.GetAttributeNames())
        if back and not inverse and transforms.displacement_grid(other) is not None:
            return other
    return None


def inverse_task(node, lungs=None) -> Task:
    """(transform node, Inverse): the inverse of a displacement-field node, roles exchanged.

    lungs: of lungs_of(), where the round trip is measured; None: at all nodes of the field. Raises
    InputError for a node that is no single displacement grid.
    """
    field = transforms.field_of(node)
    fixed, moving = transforms.roles(node)
    grid = volumes.grid_of(moving, below=node) if moving else None

    def compute():
        points = lungs().marked_points(most=_LUNG_POINTS) if lungs else None
        from ..outputs.inverse import invert  # and scipy, for which Slicer's start doesn't wait

        return invert(field, points, grid)

    def show(found) -> tuple:
        name = f"{node.GetName()} inverse"
        inverse = nodes.unique(node.GetScene(), "vtkMRMLTransformNode", name)
        transforms.set_field(inverse, found.field)
        transforms.set_role(inverse, "fixed", moving)
        transforms.set_role(inverse, "moving", fixed)
        for key, value in found.summary().items():
            inverse.SetAttribute(_ROUND_TRIP + key, f"{value:.6g}")
        return inverse, found

    return Task(compute, show, (node,), torch=True)


def ventilation_task(node, fixed, moving, lungs, regions: Callable | None = None) -> Task:
    """({name: volume node}, table node, Ventilation) of a displacement-field node and its two CTs.

    lungs: of lungs_of(); regions: of masks_by_name(), more in the fixed scan, such as lobes. The
    names say sign and unit; -1 is no lung. Raises InputError as `ventilation` does.
    """
    field = transforms.field_of(node)
    images = volumes.to_volume(fixed), volumes.to_volume(moving, below=node)

    def compute():
        from ..outputs.ventilation import ventilation  # and scipy

        return ventilation(field, *images, lungs(), regions() if regions else None)

    def show(found) -> tuple:
        scene = node.GetScene()
        made = {}
        for name, title in _MAPS.items():
            made[name] = nodes.unique(scene, "vtkMRMLScalarVolumeNode", f"{title} ({_UNIT})")
            made[name].SetAttribute(nodes.MADE, name)
            _show_map(made[name], getattr(found, name), title)
            made[name].SetAttribute(PREFIX + "FixedIs", found.fixed_is)
        table = nodes.unique(scene, "vtkMRMLTableNode", f"{node.GetName()} ventilation by region")
        columns = {"Region": list(found.regions)}
        for title, text in _COLUMNS.items():
            columns[title] = [text(row) for row in found.regions.values()]
        nodes.fill_table(table, columns)
        return made, table, found

    return Task(compute, show, (node, fixed, moving))


def partners_task(node, markups, marked_in: str) -> Task:
    """(markups node, MovedPoints, confidence): where marked points lie in the other scan.

    marked_in: "fixed" or "moving"; labels are kept. confidence: (N,) mm that they may be off by:
    what the result's confidence says or, where it is more, how far an independent registration the
    other way round is from them, where the scene has one; NaN or None where nothing is known.
    """
    if marked_in not in ("fixed", "moving"):
        raise InputError(f"Points are marked in 'fixed' or in 'moving', not in '{marked_in}'.")
    told = confidence.map_of(node)
    field = transforms.field_of(node)
    marked = landmarks.of_markups(markups, below=node)
    backward = backward_of(node)
    back = None if backward is None else transforms.field_of(backward)

    def compute() -> tuple:
        moved = (to_fixed if marked_in == "moving" else to_moving)(marked.points, field)
        pair = (marked.points, moved.points)
        ends = pair if marked_in == "fixed" else pair[::-1]
        return moved, uncertainty(*ends, field, told, back)

    def show(found: tuple) -> tuple:
        moved, apart = found
        now = landmarks.of_markups(markups, below=node).points
        if not np.array_equal(now, marked.points):
            raise InputError(f"'{markups.GetName()}' was changed meanwhile: find its points again.")
        where = "fixed" if marked_in == "moving" else "moving"
        name = f"{markups.GetName()} in {where}"
        made = nodes.unique(node.GetScene(), "vtkMRMLMarkupsFiducialNode", name)
        for label, point in zip(
            marked.labels, transforms.ras_lps(moved.points).tolist(), strict=True
        ):
            made.AddControlPoint(point, label)
        return made, moved, apart

    return Task(compute, show, (node, markups), torch=True)


def ends(node, fixed_markups, moving_markups) -> tuple[np.ndarray, np.ndarray]:
    """Where corresponding points lie, (N, 3) RAS mm: in the fixed scan, and in the moving one.

    Points that were put under the transform are meant where they were placed.
    """
    both = fixed_markups, moving_markups
    return tuple(transforms.ras_lps(landmarks.of_markups(one, below=node).points) for one in both)


def change_task(node, fixed_segment=None, moving_segment=None) -> Task:
    """VolumeChange: how the volume of a segment changes from the fixed to the moving scan.

    A segment: a label map node, a segmentation (all its segments) or (segmentation, segment).
    Drawn in one scan, the field says its volume in the other; drawn in both, its growth beside
    what breathing explains is told. Raises InputError for none and for empty ones.
    """
    if fixed_segment is None and moving_segment is None:
        raise InputError("Choose a segment in the fixed scan, in the moving scan, or in both.")
    field = transforms.field_of(node)
    drawn = (
        fixed_segment and volumes.mask_to_volume(fixed_segment),
        moving_segment and volumes.mask_to_volume(moving_segment, below=node),
    )
    return Task(lambda: volume_change(field, *drawn), lambda found: found, (node,), torch=True)


def segments_by_name(segmentation) -> dict[str, str]:
    """The IDs of the segments of a segmentation node, by their names."""
    segments = segmentation.GetSegmentation()
    return {segments.GetSegment(one).GetName(): one for one in segments.GetSegmentIDs()}


def masks_by_name(segmentation, below=None, names=None) -> Callable[[], dict[str, Volume]]:
    """A function without a node in it: each segment of a segmentation node as a mask, by its name.

    Parents count up to `below`; names: those that are wanted, None: all. Empty segments are left
    out.
    """
    wanted = segments_by_name(segmentation)
    wanted = {name: one for name, one in wanted.items() if names is None or name in names}
    read = volumes.segments_reader(segmentation, list(wanted.values()), below)

    def found() -> dict[str, Volume]:
        masks = read()
        return {name: masks[one] for name, one in wanted.items() if one in masks}

    return found


def _show_map(node, volume: Volume, title: str) -> None:
    """A map with its colours and their scale; what is no lung is not drawn."""
    values = volume.array[np.isfinite(volume.array)]
    low, high = (float(q) for q in np.percentile(values, (1, 99)))
    low = min(low, 0.0)
    filled = np.nan_to_num(volume.array, nan=_NO_LUNG)
    window = max(high - low, 0.01), (high + low) / 2
    volumes.set_volume(node, Volume(filled, volume.grid), window=window)
    display = node.GetDisplayNode()
    colour = nodes.colours(node.GetScene(), "Ventilation", _FILLING)
    display.SetAndObserveColorNodeID(colour.GetID())
    display.SetInterpolate(False)  # no colours of a border that is half lung
    display.SetThreshold(_NO_LUNG + 1e-3, float(values.max()) + 1)
    display.SetApplyThreshold(True)
    nodes.add_legend(node, title, f"{title}\nvolume gained /\nvolume at expiration", "%.2f")
