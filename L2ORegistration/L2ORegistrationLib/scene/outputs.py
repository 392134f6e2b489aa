"""What follows a registration, as nodes: inverse transform, ventilation maps, a point's partner."""

from __future__ import annotations

import numpy as np
import slicer

from ..core.geometry import Volume
from ..outputs.inverse import Inverse, invert
from ..outputs.points import MovedPoints, to_fixed, to_moving
from ..outputs.ventilation import Ventilation, ventilation
from . import nodes, transforms, volumes


def add_inverse(node, mask: Volume | None = None) -> tuple:
    """(transform node, Inverse): the inverse of a displacement-field node, roles exchanged.

    mask: where the round trip is measured, such as the fixed lungs; all nodes of the field without
    one. Raises InputError for a node that is no single displacement grid.
    """
    field = transforms.field_of(node)
    fixed, moving = transforms.roles(node)
    grid = volumes.grid_of(moving) if moving else None
    points = mask.marked_points(most=300_000) if mask else None
    found: Inverse = invert(field, points, grid)
    name = f"{node.GetName()} inverse"
    inverse = nodes.unique(node.GetScene(), "vtkMRMLTransformNode", name)
    transforms.set_field(inverse, found.field)
    transforms.set_role(inverse, "fixed", moving)
    transforms.set_role(inverse, "moving", fixed)
    for key, value in found.summary().items():
        inverse.SetAttribute(f"L2ORegistration.RoundTrip.{key}", f"{value:.6g}")
    return inverse, found


def add_ventilation(node, fixed, moving, mask: Volume) -> tuple:
    """({name: volume node}, Ventilation) of a displacement-field node and its two CT nodes.

    mask: the fixed lungs. The names say sign and unit. Raises InputError as `ventilation` does.
    """
    found: Ventilation = ventilation(
        transforms.field_of(node), volumes.to_volume(fixed), volumes.to_volume(moving), mask
    )
    made = {}
    for name, title in (
        ("jacobian", "Ventilation by Jacobian"),
        ("hu", "Ventilation by HU"),
    ):
        volume = getattr(found, name)
        values = volume.array[np.isfinite(volume.array)]
        low, high = (float(q) for q in np.percentile(values, (1, 99)))
        title = f"{title} (volume gained / volume at expiration)"
        made[name] = nodes.unique(node.GetScene(), "vtkMRMLScalarVolumeNode", title)
        window = max(high - low, 0.01), (high + low) / 2
        shown = Volume(np.nan_to_num(volume.array), volume.grid)
        volumes.set_volume(made[name], shown, window=window)
        made[name].GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileViridis.txt")
        made[name].SetAttribute("L2ORegistration.FixedIs", found.fixed_is)
        made[name].SetAttribute("L2ORegistration.ScaleMm", f"{found.scale_mm:g}")
    return made, found


def add_partners(node, markups, to_fixed_scan: bool) -> tuple:
    """(markups node, MovedPoints): where the points of a markups node lie in the other scan.

    to_fixed_scan: the points were marked in moving (True) or in fixed (False). Labels are kept.
    """
    world = transforms.ras_lps(slicer.util.arrayFromMarkupsControlPoints(markups, world=True))
    moved: MovedPoints = (to_fixed if to_fixed_scan else to_moving)(
        world, transforms.field_of(node)
    )
    where = "fixed" if to_fixed_scan else "moving"
    name = f"{markups.GetName()} in {where}"
    made = nodes.unique(node.GetScene(), "vtkMRMLMarkupsFiducialNode", name)
    for k, point in enumerate(transforms.ras_lps(moved.points).tolist()):
        made.AddControlPoint(point, markups.GetNthControlPointLabel(k))
    return made, moved
