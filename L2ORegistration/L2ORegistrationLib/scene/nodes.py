"""What many nodes need: listing a class, unique names, tables from columns, colour tables."""

from __future__ import annotations

import numpy as np
import vtk
from vtk.util import numpy_support

PREFIX = "L2ORegistration."  # of all attributes and references
MADE = PREFIX + "Made"  # of nodes that go with a registration and are no scans
OUTPUT_OF = PREFIX + "OutputOf"  # of a volume that the user chose, to the transform that filled it


def of_class(scene, name: str) -> list:
    """All nodes of a class (and its subclasses) in the scene."""
    return [scene.GetNthNodeByClass(i, name) for i in range(scene.GetNumberOfNodesByClass(name))]


def unique(scene, class_name: str, name: str):
    """A new node of this class, named `name` or, where that is taken, `name_1` and so on."""
    return scene.AddNewNodeByClass(class_name, scene.GenerateUniqueName(name))


def owned(owner, role: str, class_name: str, name: str):
    """The node that `owner` refers to in this role (without PREFIX); made where there is none."""
    node = owner.GetNodeReference(PREFIX + role)
    if node is None:
        node = unique(owner.GetScene(), class_name, name)
        owner.SetNodeReferenceID(PREFIX + role, node.GetID())
    return node


def remove(*unwanted) -> None:
    """Take nodes out of their scene together with their display and storage nodes; None is fine."""
    for node in unwanted:
        scene = node.GetScene() if node is not None else None
        if scene is None:
            continue
        helpers = []
        if hasattr(node, "GetDisplayNode"):
            helpers += [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())]
        if hasattr(node, "GetStorageNode"):
            helpers += [node.GetNthStorageNode(i) for i in range(node.GetNumberOfStorageNodes())]
        scene.RemoveNode(node)
        for helper in helpers:
            if helper is not None and helper.GetScene() is scene:
                scene.RemoveNode(helper)


def fill_table(node, columns: dict) -> None:
    """Replace the content of a table node: {column name: numbers or words}, all equally long.

    It is locked, so that nobody edits a result by typing on a view of it.
    """
    table = vtk.vtkTable()
    for name, values in columns.items():
        if len(values) and isinstance(values[0], str):
            column = vtk.vtkStringArray()
            for value in values:
                column.InsertNextValue(value)
        else:
            column = numpy_support.numpy_to_vtk(np.asarray(values, float), deep=True)
        column.SetName(name)
        table.AddColumn(column)
    node.SetUseColumnTitleAsColumnHeader(True)  # the names, instead of A B C
    node.SetLocked(True)
    node.SetAndObserveTable(table)


def add_legend(volume, name: str, title: str, numbers: str) -> None:
    """A colour bar for a volume node in the views that show it; numbers: their printf format."""
    scene = volume.GetScene()
    if not scene.IsNodeClassRegistered("vtkMRMLColorLegendDisplayNode"):
        return
    for number in range(volume.GetNumberOfDisplayNodes()):
        if volume.GetNthDisplayNode(number).IsA("vtkMRMLColorLegendDisplayNode"):
            return
    legend = scene.AddNewNodeByClass("vtkMRMLColorLegendDisplayNode", f"{name} scale")
    legend.SetTitleText(title)
    legend.SetLabelFormat(numbers)
    legend.SetAndObservePrimaryDisplayNode(volume.GetDisplayNode())
    legend.SetVisibility(True)
    volume.AddAndObserveDisplayNodeID(legend.GetID())


def colours(scene, name: str, stops: list) -> object:
    """The colour table node of this name, made once: 256 colours through `stops` (r, g, b)."""
    found = scene.GetFirstNode(name, "vtkMRMLColorTableNode")
    if found is not None:
        return found
    node = scene.CreateNodeByClass("vtkMRMLColorTableNode")
    node.UnRegister(None)
    node.SetName(name)
    node.SetTypeToUser()
    node.SetNumberOfColors(256)
    ramp = np.linspace(0, len(stops) - 1, 256)
    levels = np.stack(
        [np.interp(ramp, range(len(stops)), [stop[k] for stop in stops]) for k in range(3)], 1
    )
    for i, (red, green, blue) in enumerate(levels):
        node.SetColor(i, f"{i}", red, green, blue, 1.0)
    return scene.AddNode(node)
