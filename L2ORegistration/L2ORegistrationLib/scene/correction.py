"""A result corrected by hand: landmark pairs pull it, and the optimiser goes on from there.

The new iterations are added to those that there are, as long as nobody undoes them.
"""

from __future__ import annotations

from dataclasses import replace

from ..core.errors import InputError
from ..core.geometry import DisplacementField
from ..outputs.correction import corrected
from . import landmarks, nodes, transforms, unchanged
from .curve import Curve
from .history import History
from .run import Run
from .session import Session
from .settings import Settings

METHOD = "gauss-newton"  # the one that can hold points
PULLED = "These landmarks steered the result: their error is no measure of accuracy."


class Continuation(Run):
    """A Run that goes on from the shown iteration, with landmark pairs as stiff evidence."""

    def __init__(
        self,
        settings: Settings,
        fixed_points,
        moving_points,
        *,
        session: Session | None = None,
        factory=None,
    ):
        """Reads the nodes and starts the worker. Raises InputError.

        settings: with the output transform; its method and start are not used; fixed_points,
        moving_points: markups nodes, paired as landmarks are; session: that of the transform,
        where there is one; factory: as for Run.
        """
        transform = settings.outputTransform
        history = None if transform is None else History.of(transform)
        if history is None:
            raise InputError("There is no result to go on from: run Register first.")
        if fixed_points is None or moving_points is None:
            raise InputError("Choose fixed and moving points, or add a pair of them.")
        unchanged.check(transform)
        self._pairs = [
            one.points for one in landmarks.pairs(fixed_points, moving_points, below=transform)
        ]
        self._field = transforms.field_of(transform)
        self._lungs = session.lungs if session is not None else None
        self._remembered = False
        plain = {
            "initialTransform": None,
            "start": "search",
            "startModel": None,
            "model": None,
            "iterations": None,
        }
        settings = replace(settings, method=METHOD, **plain)
        super().__init__(settings, preview=False, factory=_pulled(self._pairs, factory))
        self.session = session or Session(history)
        self._needed += [history.browser, history.sequence]
        self._base = len(history)

    def _arguments(self) -> dict:
        arguments = self.settings.engine_arguments()
        if arguments["fixed_mask"] is None:
            arguments["fixed_mask"] = self._lungs
        return arguments | {"initial_transform": self._field}

    def _show(self, step) -> None:
        if step.index == 0:  # how it was before all registrations: the history has that
            return
        history = self.session.history
        if not self._remembered:
            history.remember()
            self._remembered = True
        metrics = self._metrics(step)
        if step.index == 1:
            metrics["stage"] = "corrected"
        history.append(_on(step.field, self._field.grid), **metrics)
        self.session.curve.update()

    def _finish(self, event) -> None:
        if not self._remembered:
            self._undo()
            return
        if event.result.best == 0:
            raise InputError(
                "The images match better without any motion than with these points: check them."
            )
        self._finish_from(event, self._base - 1, event.result.best, PULLED)

    def _put_back(self) -> None:
        if self.session is None:
            return
        self.session.close()
        history = self.session.history
        there = history.browser.GetScene() is not None and history.sequence is not None
        if self._remembered and there and history.transform is not None:
            history.undo()
            self.session.curve.update()
        self.session = None


def undo(transform) -> None:
    """Take back the last correction of an output transform. Raises InputError for none."""
    history = History.of(transform)
    if history is None:
        raise InputError(f"'{transform.GetName()}' has no iterations: run Register first.")
    history.undo()
    Curve(history).update()


def add_pair(transform, ras, fixed=None, moving=None) -> tuple:
    """(fixed, moving) markups nodes with one pair more, at a point (RAS) and where it leads to.

    Nodes are made where none are given. The moving one is put under the transform, so that it is
    seen, and dragged, in the warped image: onto what belongs to the point in the fixed one.
    """
    scene, made = transform.GetScene(), []
    for role, node in (("fixed", fixed), ("moving", moving)):
        if node is None:
            node = nodes.unique(scene, "vtkMRMLMarkupsFiducialNode", f"Correction {role}")
            if role == "moving":
                node.SetAndObserveTransformNodeID(transform.GetID())
        made.append(node)
    fixed, moving = made
    used = {n.GetNthControlPointLabel(k) for n in made for k in range(n.GetNumberOfControlPoints())}
    label = next(str(k) for k in range(1, len(used) + 2) if str(k) not in used)
    fixed.AddControlPointWorld(list(ras), label)
    if not transforms.is_under(moving, transform):
        there = transforms.field_of(transform).transform_points(transforms.ras_lps(ras)[None])
        ras = transforms.ras_lps(there)[0]
    moving.AddControlPointWorld(list(ras), label)
    return fixed, moving


def _pulled(pairs: list, factory):
    """What makes the registration on the worker: the field, pulled, becomes its start."""

    def make(*, initial_transform: DisplacementField, **arguments):
        if factory is None:
            from ..engine.registration import Registration as registration  # imports torch
        else:
            registration = factory
        start = corrected(initial_transform, *pairs)
        return registration(initial_transform=start, pinned=pairs[0], **arguments)

    return make


def _on(field: DisplacementField, grid) -> DisplacementField:
    """The field on the grid that all iterations of a history share."""
    return field if field.grid.matches(grid) else field.resampled(grid)
