"""Corresponding landmarks of two markups nodes, and how far the registration leaves them apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ..core import measures
from ..core.errors import InputError
from ..core.geometry import DisplacementField, Grid, Volume
from ..core.landmarks import Landmarks
from ..outputs.points import told_at
from . import nodes, transforms

_GREEN_TO_RED = [(0.1, 0.7, 0.2), (0.95, 0.85, 0.1), (0.85, 0.1, 0.1)]
_TUBE_MM = 0.7  # radius of the lines
_SHORTEST_MM = 0.05  # that is drawn
_ROWS = {"Mean": "mean", "SD": "sd", "Median": "median", "95 %": "p95", "Maximum": "max"}


def of_markups(node, below=None) -> Landmarks:
    """The placed control points of a markups node in the world; parents count up to `below`.

    Raises InputError when there are none, and under another non-linear transform.
    """
    placed = [
        i
        for i in range(node.GetNumberOfControlPoints())
        if node.GetNthControlPointPositionStatus(i) == slicer.vtkMRMLMarkupsNode.PositionDefined
    ]
    if not placed:
        raise InputError(f"'{node.GetName()}' has no landmarks: place some in the image first.")
    matrix = transforms.world_matrix(node, below)
    points = slicer.util.arrayFromMarkupsControlPoints(node) @ matrix[:3, :3].T + matrix[:3, 3]
    labels = tuple(node.GetNthControlPointLabel(i) for i in placed)
    return Landmarks(transforms.ras_lps(points[placed]), labels)


def pairs(fixed_node, moving_node, below=None) -> tuple[Landmarks, Landmarks]:
    """Corresponding landmarks of two markups nodes: by label, else by order.

    below: the registration's transform; moving landmarks that were put under it are meant where
    they were placed, not where it shows them. Raises InputError when they cannot be matched.
    """
    return measures.match_landmarks(of_markups(fixed_node), of_markups(moving_node, below))


def unpaired(fixed_node, moving_node, below=None) -> str:
    """A sentence that names the landmarks without a partner; empty for none. below: as pairs()."""
    return measures.unpaired(of_markups(fixed_node), of_markups(moving_node, below))


@dataclass(frozen=True)
class Evaluation:
    """Landmark errors in mm, (N,) each; table, summary_table and lines are nodes in the scene.

    snapped: as published tables often count, the found point rounded to moving's nearest voxel.
    """

    fixed: Landmarks
    moving: Landmarks
    before: np.ndarray
    after: np.ndarray
    snapped: np.ndarray | None
    table: object
    summary_table: object
    lines: object

    @property
    def summary(self) -> dict[str, dict[str, float]]:
        """{"before" | "after" | "snapped": {"mean", "sd", "median", "p95", "max", ...}}."""
        return _summary(self.before, self.after, self.snapped)


def evaluate(
    field: DisplacementField,
    fixed: Landmarks,
    moving: Landmarks,
    transform,
    moving_grid: Grid | None = None,
    told: Volume | None = None,
) -> Evaluation:
    """Errors that a field leaves at corresponding landmarks, as tables and coloured lines.

    The tables are for reading and have two decimals; Evaluation has the numbers as they are.
    transform: the output transform; it refers to the nodes made here, and the next call for the
    same transform updates them. moving_grid: where given, snapped errors are there as well. told:
    of confidence.map_of(), for a column of what each landmark is told to be off by.
    """
    ends = fixed.points, moving.points
    before = np.linalg.norm(fixed.points - moving.points, axis=1)
    after = measures.target_registration_error(field, *ends)
    snapped = None
    if moving_grid is not None:
        snapped = measures.target_registration_error(field, *ends, snap_to=moving_grid)
    columns = {"Before": before, "After": after}
    if snapped is not None:
        columns["Snapped"] = snapped
    named = transform.GetName()
    table = nodes.owned(
        transform, "landmarkTable", "vtkMRMLTableNode", f"{named} landmark errors in mm"
    )
    rounded = {name: np.round(errors, 2) for name, errors in columns.items()}
    if told is not None:
        rounded["Told"] = np.round(told_at(told, fixed.points), 2)
    nodes.fill_table(table, {"Landmark": list(fixed.labels), **rounded})
    summary = nodes.owned(
        transform, "summaryTable", "vtkMRMLTableNode", f"{named} landmark summary in mm"
    )
    described = _summary(before, after, snapped).values()
    nodes.fill_table(
        summary,
        {
            "Error (mm)": list(_ROWS),
            **{
                name: [f"{one[row]:.2f}" for row in _ROWS.values()]
                for name, one in zip(columns, described, strict=True)
            },
        },
    )
    lines = nodes.owned(
        transform, "errorLines", "vtkMRMLModelNode", f"{named} landmark error lines"
    )
    lines.SetAttribute(nodes.MADE, "lines")
    # Drawn at the fixed landmark, over the fixed image: what is still missing there.
    missing = moving.points - field.transform_points(fixed.points)
    show_lines(lines, fixed.points, fixed.points + missing, after, before.max())
    return Evaluation(fixed, moving, before, after, snapped, table, summary, lines)


def show_lines(
    model, starts: np.ndarray, ends: np.ndarray, errors: np.ndarray, most: float
) -> None:
    """Lines from starts to ends (N, 3 LPS mm), coloured by error: green at 0, red at `most` mm.

    They are thin tubes: a slice view cuts models, and of a line it would show a single point.
    """
    long = np.linalg.norm(ends - starts, axis=1) > _SHORTEST_MM
    points = vtk.vtkPoints()
    ras = transforms.ras_lps(np.stack([starts[long], ends[long]], 1).reshape(-1, 3)).astype(float)
    points.SetData(numpy_support.numpy_to_vtk(ras, deep=True))
    lines = vtk.vtkCellArray()
    for i in range(np.count_nonzero(long)):
        lines.InsertNextCell(2, (2 * i, 2 * i + 1))
    data = vtk.vtkPolyData()
    data.SetPoints(points)
    data.SetLines(lines)
    scalars = numpy_support.numpy_to_vtk(np.repeat(errors[long], 2).astype(np.float32), deep=True)
    scalars.SetName("Error (mm)")
    data.GetPointData().SetScalars(scalars)
    tubes = vtk.vtkTubeFilter()
    tubes.SetInputData(data)
    tubes.SetRadius(_TUBE_MM)
    tubes.SetNumberOfSides(8)
    tubes.CappingOn()
    tubes.Update()
    model.SetAndObservePolyData(tubes.GetOutput())
    if model.GetDisplayNode() is None:
        model.CreateDefaultDisplayNodes()
        model.GetDisplayNode().SetVisibility2D(True)
        model.GetDisplayNode().SetSliceIntersectionThickness(2)
    display = model.GetDisplayNode()
    colour = nodes.colours(model.GetScene(), "Landmark error", _GREEN_TO_RED)
    display.SetAndObserveColorNodeID(colour.GetID())
    display.SetActiveScalarName("Error (mm)")
    display.SetScalarRangeFlag(slicer.vtkMRMLDisplayNode.UseManualScalarRange)
    display.SetScalarRange(0.0, max(float(most), 1.0))
    display.SetScalarVisibility(True)


def _summary(before, after, snapped) -> dict:
    found = {"before": before, "after": after, "snapped": snapped}
    return {k: measures.summarise(v) for k, v in found.items() if v is not None}
