"""A 4DCT's sequence browser: the images of its phases, and the transforms played with them."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import slicer
import vtk

from ..core.errors import InputError
from ..core.geometry import Volume
from ..core.paths import counted
from . import nodes, transforms, volumes
from .nodes import PREFIX

ROLE = PREFIX + "Sequence"  # of the browser, to the sequence of transforms
BETWEEN = PREFIX + "between"  # of a linear transform that was put in between: whose copy
MADE = PREFIX + "MadeTransform"  # of the browser, to a proxy that is not the user's own
LEAST = 3  # phases


def make_sequence(phases: Sequence, name: str = "4DCT"):
    """A browser, with a new sequence, of copies of volume nodes; see SequenceLogic.makeSequence."""
    steps = making_sequence(phases, name)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def making_sequence(phases: Sequence, name: str = "4DCT") -> Generator:
    """make_sequence() in pieces, one for each phase, so that a window can answer in between.

    Yields how many phases have been copied, and returns the browser. Nothing is left in the scene
    where it is closed before.
    """
    if len(phases) < LEAST:
        raise InputError(f"A breath needs at least {LEAST} phases: choose more volumes.")
    grids = [volumes.grid_of(node) for node in phases]
    for node, grid in zip(phases, grids, strict=True):
        if not grid.matches(grids[0], tolerance=0.1):
            raise InputError(
                f"'{node.GetName()}' and '{phases[0].GetName()}' have different grids: resample "
                "one to the other first."
            )
    scene = phases[0].GetScene()
    sequence = nodes.unique(scene, "vtkMRMLSequenceNode", name)
    sequence.SetIndexName("phase")
    sequence.SetIndexUnit("")
    try:
        for number, node in enumerate(phases):
            sequence.SetDataNodeAtValue(node, str(number))
            yield number + 1
    except BaseException:  # also where it is closed before
        nodes.remove(sequence)
        raise
    browser = nodes.unique(scene, "vtkMRMLSequenceBrowserNode", f"{name} browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browser.SetIndexDisplayFormat("%.0f")
    browser.SetPlaybackRateFps(5)
    proxy = as_proxy(browser, sequence, None, f"{name} phase")
    browser.SetOverwriteProxyName(sequence, False)
    window = volumes.window_of(phases[0])
    if proxy.GetDisplayNode() is None:
        proxy.CreateDefaultDisplayNodes()
    if window is not None:
        proxy.GetDisplayNode().SetAutoWindowLevel(False)
        proxy.GetDisplayNode().SetWindowLevel(*window)
    proxy.SetAndObserveTransformNodeID(phases[0].GetTransformNodeID())
    browser.SetSelectedItemNumber(0)
    return browser


def in_order(phases: Sequence) -> list:
    """Volume nodes by name, the numbers in it counted: "phase 2" comes before "phase 10"."""
    return sorted(phases, key=lambda node: counted(node.GetName()))


def proxy_of(browser):
    """The volume node that shows the browser's selected phase; None where there is none."""
    sequence = browser.GetMasterSequenceNode()
    return None if sequence is None else browser.GetProxyNode(sequence)


def phases_of(browser) -> list[Volume]:
    """The images of the browser's master sequence where they are in the world, copies.

    Raises InputError where these are no volumes of one grid, or fewer than three.
    """
    name = f"'{browser.GetName()}'"
    sequence, proxy = browser.GetMasterSequenceNode(), proxy_of(browser)
    if sequence is None or proxy is None or not proxy.IsA("vtkMRMLScalarVolumeNode"):
        raise InputError(f"{name} does not show a sequence of volumes: choose a 4DCT.")
    count = sequence.GetNumberOfDataNodes()
    if count < LEAST:
        raise InputError(f"{name} has {count} phases, a breath at least {LEAST}.")
    to_world = transforms.world_matrix(proxy, below=transform_of(browser))
    found = []
    for number in range(count):
        node = sequence.GetNthDataNode(number)
        volumes.grid_of(node)  # refuses what is no image
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        size = node.GetImageData().GetDimensions()
        world = to_world @ transforms.matrix_of(matrix)
        grid = transforms.grid_of_matrix(world, size, f"Phase {number} of {name}")
        found.append(Volume(slicer.util.arrayFromVolume(node).copy(), grid))
        if not grid.matches(found[0].grid, tolerance=0.1):
            raise InputError(f"The phases 0 and {number} of {name} have different grids.")
    return found


def motion_of(browser):
    """The sequence of transforms that a registration added to this browser; None without one."""
    return browser.GetNodeReference(ROLE)


def transform_of(browser):
    """The transform that shows an earlier registration; None without one."""
    motion = motion_of(browser)
    return None if motion is None else browser.GetProxyNode(motion)


def as_proxy(browser, sequence, wanted, name: str):
    """The node that shows the sequence's selected item: the wanted one, or the browser's own."""
    made = browser.GetProxyNode(sequence)
    if wanted is None:
        if made is None:
            made = nodes.unique(browser.GetScene(), sequence.GetNthDataNode(0).GetClassName(), name)
            made.CopyContent(sequence.GetNthDataNode(0))
            browser.AddProxyNode(made, sequence, False)
        made.SetName(browser.GetScene().GenerateUniqueName(name))
        return made
    browser.AddProxyNode(wanted, sequence, False)
    nodes.remove(made)
    return wanted


def put_under(proxy, transform, below=None) -> list:
    """Put the images under the transform, their linear parent in between; the nodes made.

    below: an earlier registration's transform, which the new one replaces.
    """
    parent, made = proxy.GetParentTransformNode(), []
    target = transform
    if parent is not None and parent is not below:
        name = parent.GetAttribute(BETWEEN) or parent.GetName()
        target = nodes.unique(
            proxy.GetScene(), "vtkMRMLLinearTransformNode", f"{name} in {transform.GetName()}"
        )
        target.SetAttribute(BETWEEN, name)
        matrix = transforms.matrix_to_vtk(transforms.world_matrix(proxy, below))
        target.SetMatrixTransformToParent(matrix)
        target.SetAndObserveTransformNodeID(transform.GetID())
        made.append(target)
    proxy.SetAndObserveTransformNodeID(target.GetID())
    return made
