"""The moving image shown warped, on a copy: the user's moving volume stays where it is.

The copy shares the voxels and lies under the output transform, so that slice views follow every
iteration; with a strength below 1 it lies under a second transform that shows the same grid scaled.
"""

from __future__ import annotations

import slicer

from . import nodes, transforms, volumes


class Preview:
    """One preview volume; call remove() when it is no longer wanted."""

    def __init__(self, moving, transform):
        """moving: scalar volume node; transform: the output transform. Raises InputError."""
        self.transform = transform
        self.volume = volumes.shared_copy(moving, f"{moving.GetName()} warped", below=transform)
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
        if self._strength == 1.0:
            self.volume.SetAndObserveTransformNodeID(self.transform.GetID())
            return
        self._follow()
        self.volume.SetAndObserveTransformNodeID(self._scaled.GetID())

    def remove(self) -> None:
        """Take what the preview made out of the scene; fine after the scene was closed, too."""
        self.transform.RemoveObserver(self._observed)
        nodes.remove(self.volume, self._scaled)

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
