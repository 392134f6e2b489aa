"""Nodes and options of one registration: whether they fit together, and what the engine gets."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import vtk

from ..core.errors import InputError
from ..core.geometry import Grid
from ..engine.catalogue import DEFAULT, METHODS, STARTS
from ..engine.packaged import checked_weights
from . import landmarks, nodes, transforms, volumes
from .history import player_of

_INITIAL_SPACING = 4.0  # mm, of a non-linear initial transform
_INITIAL_MARGIN = 20.0


@dataclass
class Settings:
    """The arguments of the module's register(); None: not chosen, or decided automatically.

    A mask is a label map volume, a segmentation node (all segments) or a pair (segmentation node,
    segment ID or name). An initial transform is one that brings the moving volume near the fixed
    one when the moving volume is put under it.
    """

    fixed: Any = None
    moving: Any = None
    fixedMask: Any = None
    movingMask: Any = None
    initialTransform: Any = None
    outputTransform: Any = None
    outputVolume: Any = None
    method: str = DEFAULT
    iterations: int | None = None
    device: str = "auto"
    fixedLandmarks: Any = None
    movingLandmarks: Any = None
    outputJacobian: Any = None
    model: str | None = None
    start: str = "search"
    startModel: str | None = None
    threads: int | None = None
    spacing: float | None = None

    def problem(self) -> str:
        """Why the registration cannot start, as a sentence, or "". No voxels are read."""
        try:
            self.check()
        except InputError as error:
            return str(error)
        return ""

    def remark(self) -> str:
        """What the user should know before the start, as a sentence, or ""."""
        return volumes.standstill(*self._mask_nodes())

    def check(self) -> None:
        """Raise InputError with what problem() says."""
        if self.fixed is None:
            raise InputError("Choose a fixed volume.")
        if self.moving is None:
            raise InputError("Choose a moving volume.")
        if self.fixed is self.moving:
            raise InputError("Fixed and moving volume are the same: choose two different volumes.")
        for volume in (self.fixed, self.moving, self.outputVolume, self.outputJacobian):
            if volume is not None and volume.GetAttribute(nodes.MADE):
                raise InputError(
                    f"'{volume.GetName()}' shows a registration and goes with it: choose another "
                    "volume."
                )
        self._check_outputs()
        volumes.grid_of(self.fixed)
        volumes.grid_of(self.moving, self.outputTransform)
        for mask in (self.fixedMask, self.movingMask):
            if mask is not None:
                volumes.mask_node_and_segment(mask)
        if self.start == "landmarks" or self.fixedLandmarks or self.movingLandmarks:
            self.landmark_pairs()
        self._check_options()

    def landmark_pairs(self):
        """(fixed, moving) Landmarks; None when no lists are chosen. InputError for half a pair."""
        if self.fixedLandmarks is None and self.movingLandmarks is None:
            if self.start == "landmarks":
                raise InputError("Choose fixed and moving landmarks to start from them.")
            return None
        if self.fixedLandmarks is None or self.movingLandmarks is None:
            missing = "fixed" if self.fixedLandmarks is None else "moving"
            raise InputError(f"Choose the {missing} landmarks, too, or none at all.")
        if self.fixedLandmarks is self.movingLandmarks:
            raise InputError(
                "Fixed and moving landmarks are the same list: choose the points of each volume."
            )
        return landmarks.pairs(self.fixedLandmarks, self.movingLandmarks, self.outputTransform)

    def engine_arguments(self) -> dict:
        """What engine.registration.Registration takes, with copies of the voxels. InputError."""
        self.check()
        fixed = volumes.to_volume(self.fixed)
        arguments = {
            "fixed": fixed,
            "moving": volumes.to_volume(self.moving, self.outputTransform),
            "fixed_mask": self.fixedMask and volumes.mask_to_volume(self.fixedMask),
            "moving_mask": self.movingMask
            and volumes.mask_to_volume(self.movingMask, self.outputTransform),
            "initial_transform": self._initial(fixed.grid),
            "start": self.start,
            "method": self.method,
            "model": self.model,
            "start_model": self.startModel,
            "iterations": self.iterations,
            "device": self.device,
            "threads": self.threads,
        }
        if self.spacing is not None:
            arguments["spacing"] = self.spacing
        if self.start == "landmarks":
            arguments["landmarks"] = tuple(one.points for one in self.landmark_pairs())
        return arguments

    def inputs(self) -> list:
        """The nodes that must stay in the scene while the registration runs."""
        found = [self.fixed, self.moving, *self._mask_nodes()]
        found += [self.fixedLandmarks, self.movingLandmarks]
        found += [self.initialTransform, self.outputTransform]
        found += [self.outputVolume, self.outputJacobian]
        return [node for node in found if node is not None]

    def as_python(self) -> str:
        """The console's call of register() with these settings, without those at their default."""
        lines = [_expression(self.fixed), _expression(self.moving)]
        for field in fields(self)[2:]:
            value = getattr(self, field.name)
            if value != field.default:
                lines.append(f"{field.name}={_expression(value)}")
        arguments = "".join(f"    {line},\n" for line in lines)
        return f'slicer.util.getModuleLogic("L2ORegistration").register(\n{arguments})\n'

    def _mask_nodes(self) -> list:
        masks = self.fixedMask, self.movingMask
        return [mask[0] if isinstance(mask, tuple | list) else mask for mask in masks]

    def _check_outputs(self) -> None:
        transform = self.outputTransform
        if transform is not None:
            name = f"'{transform.GetName()}'"
            if transform.GetClassName() != "vtkMRMLTransformNode":
                raise InputError(
                    f"The output transform {name} cannot hold a deformation: create a new one."
                )
            if player_of(transform) is not None:
                raise InputError(
                    f"The output transform {name} is played with a sequence: choose another output."
                )
            if transform is self.initialTransform:
                raise InputError("The output transform is the initial one: choose another output.")
            parent = transform.GetParentTransformNode()
            if parent is not None:
                raise InputError(
                    f"The output transform {name} is under the transform '{parent.GetName()}': "
                    "take it out, in the Transforms module, or choose another output."
                )
            if transforms.is_under(self.fixed, transform):
                raise InputError(
                    f"The fixed volume is under the output transform {name}: take it out."
                )
        initial = self.initialTransform
        if initial is not None and transforms.is_under(self.moving, initial):
            raise InputError(
                f"The moving volume is already under the initial transform '{initial.GetName()}': "
                "take it out, or choose no initial transform."
            )
        for what, node in (("volume", self.outputVolume), ("Jacobian", self.outputJacobian)):
            if node is not None and node in (self.fixed, self.moving, *self._mask_nodes()):
                raise InputError(f"The output {what} would overwrite an input: choose another.")
        if self.outputVolume is not None and self.outputVolume is self.outputJacobian:
            raise InputError("The warped volume and the Jacobian need two different outputs.")

    def _check_options(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"There is no method '{self.method}': choose {', '.join(METHODS)}.")
        if self.start not in STARTS:
            raise InputError(f"There is no start '{self.start}': choose {', '.join(STARTS)}.")
        checked_weights(self.method, self.model)
        checked_weights(self.start, self.startModel, "start")
        if self.iterations is not None and self.iterations < 1:
            raise InputError("The number of iterations must be 1 or more.")

    def _initial(self, fixed: Grid):
        node = self.initialTransform
        if node is None:
            return None
        if node.IsTransformToWorldLinear():
            matrix = vtk.vtkMatrix4x4()
            node.GetMatrixTransformFromWorld(matrix)
            return transforms.ras_lps_matrix(transforms.matrix_of(matrix))
        grid = Grid.covering(fixed.corners(), _INITIAL_SPACING, _INITIAL_MARGIN)
        return transforms.field_of(node, grid)


def _expression(value) -> str:
    if hasattr(value, "GetID"):
        name, scene = value.GetName(), value.GetScene()
        if set(name) & set("*?[]") or scene.GetNodesByName(name).GetNumberOfItems() > 1:
            name = value.GetID()  # getNode() reads wildcards and returns the first of a name
        return f"slicer.util.getNode({name!r})"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_expression, value))})"
    return repr(value)
