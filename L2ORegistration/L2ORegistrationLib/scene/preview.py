"""The moving image shown warped, on a copy: the user's moving volume stays where it is.

The copy shares the voxels and lies under the output transform, so that slice views follow every
iteration; with a strength below 1 it lies under a second transform that shows the same grid scaled.
"""

from __future__ import annotations

import slicer

from . import display, nodes, transforms, volumes


class Preview:
    """One preview volume; call remove() when it is no longer wanted."""

    def __init__(self, moving, transform):
        """moving: scalar volume node; transform: the output transform. Raises InputError."""
        self.transform = transform
        self._name = f"{moving.GetName()} warped"
        self.volume = volumes.shared_copy(moving, f"{self._name} (preview)", below=transform)
        self.volume.SetAttribute(nodes.MADE, "preview")
        self.volume.SetAndObserveTransformNodeID(transform.GetID())
        self._scaled = None
        self._strength = 1.0
        self._observed = transform.AddObserver(
            slicer.vtkMRMLTransformableNode.TransformModifiedEvent, self._follow
        )

    @property
    def strength(self) -> float:
        """0: as if not registered, 1: as the output transform says. Settable, cheap."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._strength = min(max(float(value), 0.0), 1.0)
        if self._is_taken():
            return
        self._follow()
        self.volume.SetAndObserveTransformNodeID(self.above.GetID())

    @property
    def above(self):
        """The transform that shows as much of the motion as the strength says."""
        whole = self._strength == 1.0 or self._scaled is None  # or no grid that could be scaled
        return self.transform if whole else self._scaled

    def draw(self, mode: str | None) -> None:
        """Draw as much of the motion in the slices: "grid" or "arrows"; None: nothing."""
        output, above = self.transform, self.above
        display.set_grid_visible(output, mode is not None and above is output, mode or "grid")
        if self._scaled is not None:
            drawn = mode is not None and above is self._scaled
            display.set_grid_visible(self._scaled, drawn, mode or "grid", like=output)

    def remove(self) -> None:
        """Take what the preview made out of the scene; fine after the scene was closed, too.

        A volume that the user hardened, or took out of the transform, is the user's from now on.
        """
        self.transform.RemoveObserver(self._observed)
        if self._is_taken():
            self._give_away()
        else:
            nodes.remove(self.volume)
        nodes.remove(self._scaled)

    def _is_taken(self) -> bool:
        scene = self.volume.GetScene()
        if scene is None or self.transform.GetScene() is not scene:  # else it is under nothing, too
            return False
        ours = (self.transform, self._scaled)
        return not any(one and transforms.is_under(self.volume, one) for one in ours)

    def _give_away(self) -> None:
        if self.volume.GetAttribute(nodes.MADE):
            self.volume.RemoveAttribute(nodes.MADE)
            self.volume.SetName(self.volume.GetScene().GenerateUniqueName(self._name))
            for node in filter(None, (self.volume, self.volume.GetDisplayNode())):
                node.SetSaveWithScene(True)

    def _follow(self, *_) -> None:
        source = transforms.displacement_grid(self.transform)
        if self._strength == 1.0 or source is None or self.transform.GetScene() is None:
            return
        if self._scaled is None:
            self._scaled = nodes.unique(
                self.transform.GetScene(),
                "vtkMRMLTransformNode",
                f"{self.transform.GetName()} strength",
            )
            self._scaled.SetSaveWithScene(False)
            self._scaled.SetHideFromEditors(True)
        scaled = slicer.vtkOrientedGridTransform()
        scaled.SetGridDirectionMatrix(source.GetGridDirectionMatrix())
        scaled.SetDisplacementGridData(source.GetDisplacementGrid())  # shared, only read
        scaled.SetInterpolationModeToLinear()
        scaled.SetDisplacementScale(self._strength)
        self._scaled.SetAndObserveTransformFromParent(scaled)
