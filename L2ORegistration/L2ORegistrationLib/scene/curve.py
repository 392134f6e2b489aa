"""The curve of a registration: dissimilarity and landmark error over the iterations, with a marker.

Both are drawn relative to what was before, so that they share one axis; the table has the numbers.
"""

from __future__ import annotations

import hashlib

import numpy as np
import slicer
import vtk

from ..core import measures
from ..core.landmarks import Landmarks
from . import nodes
from .history import History
from .nodes import PREFIX

# metric -> (column of its numbers, column that is drawn, colour)
_LINES = {
    "dissimilarity": ("Dissimilarity", "Dissimilarity (% of before)", (0.12, 0.47, 0.71)),
    "error": ("Landmark error (mm)", "Landmark error (% of before)", (0.84, 0.37, 0.0)),
}
_TITLES = {
    1: "Blue: dissimilarity",
    2: "Blue: dissimilarity, orange: landmark error",
}
_MEASURED = PREFIX + "measured"  # of the browser: which landmarks the errors are those of
_TITLE_POINTS = 12  # a plot view in a layout with others is narrow
_ROLES = ["chart", "curveTable", "markTable", *(k + m for k in ("line", "mark") for m in _LINES)]


class Curve:
    """The chart of one history; its nodes are found again after the scene was saved and loaded."""

    def __init__(self, history: History):
        """Finds the nodes of this history or makes them, and brings them up to date."""
        self.history = history
        self.update()

    @property
    def chart(self):
        """The vtkMRMLPlotChartNode."""
        return self._node("chart", "vtkMRMLPlotChartNode", "convergence")

    @property
    def table(self):
        """The vtkMRMLTableNode: one row per iteration."""
        return self._node("curveTable", "vtkMRMLTableNode", "convergence table")

    def update(self) -> None:
        """After an iteration was added."""
        metrics = self.history.metrics()
        if not metrics:
            return
        columns = {"Iteration": [i - 1.0 for i in range(len(metrics))]}  # as users count them
        for metric, (numbers, drawn, _) in _LINES.items():
            values = [one[metric] for one in metrics if metric in one]
            if len(values) == len(metrics):
                columns[numbers] = values
                columns[drawn] = [100 * value / (values[0] or 1.0) for value in values]
        nodes.fill_table(self.table, columns)
        self.mark()
        if len(metrics) > 1:  # a line of one point warns at each redraw
            self._draw([metric for metric in _LINES if _LINES[metric][1] in columns])

    def mark(self) -> None:
        """Move the marker to the iteration that the output transform shows. Cheap."""
        row, table = vtk.vtkTable(), self.table.GetTable()
        row.DeepCopy(table)
        row.SetNumberOfRows(0)
        if self.history.index < table.GetNumberOfRows():
            row.InsertNextRow(table.GetRow(self.history.index))
            row.InsertNextRow(table.GetRow(self.history.index))  # a line of one point warns
        mark = self._node("markTable", "vtkMRMLTableNode", "shown iteration")
        mark.SetAndObserveTable(row)

    def show_errors(self, fixed: Landmarks, moving: Landmarks) -> None:
        """Add the mean error at these landmarks to every iteration and to the chart.

        What is there of the same landmarks stays: each iteration is a field to read and to follow.
        """
        browser, metrics = self.history.browser, self.history.metrics()
        places = np.concatenate((fixed.points, moving.points)).astype(np.float32)
        seen = hashlib.sha256(places.tobytes()).hexdigest()
        known = browser.GetAttribute(_MEASURED) == seen
        first = 0
        if known:  # further iterations may have come
            first = next((i for i, one in enumerate(metrics) if "error" not in one), len(metrics))
        if first == len(metrics):
            return
        errors = [
            measures.target_registration_error(
                self.history.field(index), fixed.points, moving.points
            ).mean()
            for index in range(first, len(metrics))
        ]
        self.history.add_metric("error", errors, first)
        browser.SetAttribute(_MEASURED, seen)
        self.update()

    def remove(self) -> None:
        """Take all nodes of the curve out of the scene."""
        browser, scene = self.history.browser, slicer.mrmlScene
        # By their IDs, because a browser that was deleted finds no nodes any longer.
        wanted = [browser.GetNodeReferenceID(PREFIX + role) for role in _ROLES]
        nodes.remove(*(scene.GetNodeByID(node_id) for node_id in wanted if node_id))

    def _draw(self, metrics: list[str]) -> None:
        chart = self.chart
        chart.SetTitle(_TITLES[len(metrics)])  # in place of a legend, which would cover the curve
        chart.SetTitleFontSize(_TITLE_POINTS)
        chart.SetLegendVisibility(False)
        chart.SetXAxisTitle("Iteration (-1: before, 0: the start)")
        chart.SetYAxisTitle("% of before")
        mark_table = self._node("markTable", "vtkMRMLTableNode", "shown iteration")
        for metric in metrics:
            _, column, colour = _LINES[metric]
            for role, table, size in (("line", self.table, 5), ("mark", mark_table, 14)):
                name = column if role == "line" else f"Shown iteration ({metric})"
                series = self._node(role + metric, "vtkMRMLPlotSeriesNode", name)
                if chart.HasPlotSeriesNodeID(series.GetID()):
                    continue
                series.SetAndObserveTableNodeID(table.GetID())
                series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
                series.SetXColumnName("Iteration")
                series.SetYColumnName(column)
                series.SetColor(*colour)
                series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
                series.SetMarkerSize(size)
                if role == "mark":
                    series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleNone)
                chart.AddAndObservePlotSeriesNodeID(series.GetID())

    def _node(self, role: str, class_name: str, name: str):
        return nodes.owned(self.history.browser, role, class_name, name)
