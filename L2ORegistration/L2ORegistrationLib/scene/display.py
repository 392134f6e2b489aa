"""How a registration is looked at: slice layers, deformation grid, Jacobian colours, checkerboard.

Only MRML nodes are set here; fitting the slices to an image is left to the desktop.
"""

from __future__ import annotations

import slicer
import vtk

from ..core.geometry import Volume
from . import nodes, transforms, volumes

# Contraction blue, expansion red, unchanged white in the middle of the range 0..2.
_DIVERGING = [
    (0.02, 0.19, 0.38),
    (0.4, 0.66, 0.81),
    (1, 1, 1),
    (0.94, 0.54, 0.38),
    (0.4, 0.0, 0.12),
]

# Of the grid and the arrows, by displacement in mm. Slicer's own turn bright red at 10 mm, and the
# grid fills the whole slice, also far from the lungs: see lung_grid for one that does not.
_DISPLACEMENT = {
    0: (0.3, 0.3, 0.3),
    5: (0.15, 0.5, 0.5),
    15: (0.55, 0.75, 0.45),
    30: (0.95, 0.85, 0.4),
}

_MODES = {
    "grid": slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID,
    "arrows": slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GLYPH,
}


def layers(scene) -> list[tuple]:
    """What the slice views show now, for set_layers()."""
    return [
        (
            composite.GetID(),
            composite.GetBackgroundVolumeID(),
            composite.GetForegroundVolumeID(),
            composite.GetForegroundOpacity(),
        )
        for composite in _composites(scene)
    ]


def set_layers(remembered: list[tuple], scene) -> None:
    """Show again what layers() returned; nodes that are gone are left empty."""
    for composite_id, background, foreground, opacity in remembered:
        composite = scene.GetNodeByID(composite_id)
        if composite is not None:
            _set(
                composite, *(scene.GetNodeByID(i or "") for i in (background, foreground)), opacity
            )


def show_blend(background, foreground, opacity: float = 0.5) -> None:
    """Two volume nodes on top of each other in every slice view."""
    for composite in _composites(background.GetScene()):
        _set(composite, background, foreground, opacity)


def put_back(background, foreground) -> None:
    """The foreground again over the background, where that is shown alone; faded as it was.

    A preview is not saved: of a scene that was loaded the views lack it.
    """
    for composite in _composites(background.GetScene()):
        alone = not composite.GetForegroundVolumeID()
        if alone and composite.GetBackgroundVolumeID() == background.GetID():
            composite.SetForegroundVolumeID(foreground.GetID())


def flicker(scene) -> None:
    """Each call shows the other layer: foreground fully, background fully, and so on."""
    for composite in _composites(scene):
        composite.SetForegroundOpacity(0.0 if composite.GetForegroundOpacity() > 0.5 else 1.0)


def show_side_by_side(left, right, linked: bool = True) -> None:
    """Two volume nodes beside each other, in slices of the same orientation.

    linked: scrolling one moves the other; wrong for scans that are not brought together.
    """
    scene = left.GetScene()
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if layout is not None:
        layout.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
    red, yellow = (slice_view(scene, name) for name in ("Red", "Yellow"))
    if red is not None and yellow is not None:
        turned = transforms.matrix_of(yellow.GetSliceToRAS())  # a turned view's has no name
        turned[:3, :3] = transforms.matrix_of(red.GetSliceToRAS())[:3, :3]
        yellow.GetSliceToRAS().DeepCopy(transforms.matrix_to_vtk(turned))
        yellow.UpdateMatrices()
    for composite in _composites(scene):
        composite.SetLinkedControl(linked)
        _set(composite, right if composite.GetLayoutName() == "Yellow" else left, None, 0.0)


def set_grid_visible(transform, visible: bool = True, mode: str = "grid", like=None) -> None:
    """The deformation over the slices: "grid" lines every 12 mm, or "arrows".

    like: a transform that is drawn as this one shall be.
    """
    display = transform.GetDisplayNode()
    known = display is not None
    if not known:
        transform.CreateDefaultDisplayNodes()
        display = transform.GetDisplayNode()
        display.SetSaveWithScene(transform.GetSaveWithScene())
    if like is not None:
        display.CopyContent(like.GetDisplayNode())
    elif not known:
        display.SetGridSpacingMm(12)
        display.SetGridScalePercent(100)
        display.SetGridLineDiameterMm(0.5)
        display.SetGridResolutionMm(3)
        display.SetGridShowNonWarped(False)
        display.SetGlyphSpacingMm(12)
        display.SetGlyphScalePercent(100)
        display.SetGlyphDisplayRangeMinMm(1)
        display.SetGlyphDiameterMm(3)
        colours = vtk.vtkColorTransferFunction()
        for displacement, colour in _DISPLACEMENT.items():
            colours.AddRGBPoint(displacement, *colour)
        display.SetColorMap(colours)
    display.SetVisualizationMode(_MODES[mode])
    display.SetVisibility3D(False)  # cluttered and slow
    display.SetVisibility2D(visible)
    display.SetVisibility(visible)


def drawn_as(transform) -> str | None:
    """The mode in which set_grid_visible() draws a deformation now: "grid" or "arrows"."""
    display = transform.GetDisplayNode()
    if display is None or not (display.GetVisibility() and display.GetVisibility2D()):
        return None
    shown = display.GetVisualizationMode()
    return next((mode for mode, number in _MODES.items() if number == shown), None)


def show_jacobian(node, jacobian: Volume) -> None:
    """Put a Jacobian determinant into a volume node: blue below 1, white at 1, red above."""
    volumes.set_volume(node, jacobian, window=(2.0, 1.0))
    display = node.GetDisplayNode()
    colour = nodes.colours(node.GetScene(), "Jacobian determinant", _DIVERGING)
    display.SetAndObserveColorNodeID(colour.GetID())


def _composites(scene) -> list:
    return nodes.of_class(scene, "vtkMRMLSliceCompositeNode")


def slice_view(scene, name: str):
    """The slice node of the view with this name, such as "Red"; None where there is none."""
    found = [n for n in nodes.of_class(scene, "vtkMRMLSliceNode") if n.GetLayoutName() == name]
    return found[0] if found else None


def _set(composite, background, foreground, opacity: float) -> None:
    """Show two volume nodes (None: an empty layer); opacity of the foreground, 0 to 1."""
    composite.SetBackgroundVolumeID(background.GetID() if background else None)
    composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
    composite.SetForegroundOpacity(opacity)
    # Slicer's colour bars follow the layers only when a user changes these, unless they are told.
    for legend in nodes.of_class(composite.GetScene(), "vtkMRMLColorLegendDisplayNode"):
        legend.Modified()
