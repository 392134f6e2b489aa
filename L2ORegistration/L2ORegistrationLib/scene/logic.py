"""The module's logic, in Slicer's own naming: what the widget and the console call.

A mix-in, so that the module's own file can stay thin and this can be tested without the desktop.
"""

from __future__ import annotations

from collections.abc import Callable

from .. import job
from ..core.errors import InputError
from ..engine.catalogue import DEFAULT
from . import confidence, landmarks, nodes, transforms, volumes
from .correction import Continuation, undo
from .curve import Curve
from .following import FollowingLogic, images_of
from .history import History
from .products import checkerboard_task, products_task
from .run import Outcome, Run
from .sequence import SequenceLogic
from .session import Session
from .settings import Settings


class SceneLogic(SequenceLogic, FollowingLogic):
    """Registration of volume nodes. Every method raises InputError for what cannot be used."""

    def start(self, settings: Settings) -> Run:
        """Start a registration in the background, with a live preview; poll() it from a timer."""
        return Run(settings)

    def register(
        self,
        fixed,
        moving,
        fixedMask=None,
        movingMask=None,
        initialTransform=None,
        outputTransform=None,
        outputVolume=None,
        method: str = DEFAULT,
        iterations: int | None = None,
        device: str = "auto",
        onStep: Callable | None = None,
        **others,
    ) -> Outcome | None:
        """Register the moving to the fixed volume and wait for it.

        Masks: a label map, a segmentation, or (segmentation, segment); automatic when left out.
        onStep: called with every engine Step; stops the run, keeping the best so far, by returning
        False. others: further fields of Settings, such as fixedLandmarks, outputJacobian, model.
        Raises InputError, or RuntimeError where the engine fails; the scene is then as before.
        """
        settings = Settings(
            fixed,
            moving,
            fixedMask,
            movingMask,
            initialTransform,
            outputTransform,
            outputVolume,
            method,
            iterations,
            device,
            **others,
        )
        return Run(settings, preview=False).wait(onStep)

    def continueFrom(
        self, transform, fixedPoints, movingPoints, onStep: Callable | None = None, **others
    ) -> Outcome | None:
        """Go on from the shown iteration with landmark pairs as evidence, and wait for it.

        fixedPoints, movingPoints: markups nodes, placed where the result is wrong. The new
        iterations are added to the others; undo() takes them back. others: fields of Settings,
        such as fixedMask, device, outputVolume. Raises as register() does.
        """
        settings = Settings(*images_of(transform), outputTransform=transform, **others)
        return Continuation(settings, fixedPoints, movingPoints).wait(onStep)

    def undo(self, transform) -> None:
        """Take back the iterations of the last continueFrom(); InputError where there are none."""
        undo(transform)

    def applyTo(self, others, transform) -> list:
        """Put nodes of the moving image (segmentations, models, markups, ...) under the transform.

        A linear transform that a node is already under is copied and kept in between. Returns the
        nodes that were put there now. Raises InputError under a non-linear transform, and for the
        fixed volume and what was made in its place.
        """
        fixed = transforms.roles(transform)[0]
        for node in others:
            made = node.GetAttribute(nodes.MADE) not in (None, "preview")
            if node is fixed or made or node.GetNodeReference(nodes.OUTPUT_OF) is transform:
                raise InputError(
                    f"'{node.GetName()}' lies in the fixed scan: only what belongs to the moving "
                    "one follows it."
                )
        others = [node for node in others if not transforms.is_under(node, transform)]
        matrices = [transforms.world_matrix(node) for node in others]
        for node, matrix in zip(others, matrices, strict=True):
            parent = node.GetParentTransformNode()
            target = transform
            if parent is not None:
                name = f"{parent.GetName()} in {transform.GetName()}"
                target = nodes.unique(node.GetScene(), "vtkMRMLLinearTransformNode", name)
                target.SetMatrixTransformToParent(transforms.matrix_to_vtk(matrix))
                target.SetAndObserveTransformNodeID(transform.GetID())
            node.SetAndObserveTransformNodeID(target.GetID())
        return others

    def copyAsPython(self, settings: Settings) -> str:
        """The call of register() that does what these settings do."""
        return settings.as_python()

    def keepIteration(self, transform, index: int | None = None):
        """An iteration (None: the shown one) becomes the result; returns a copy that stays.

        index: its place in Outcome.metrics: 0 is before the registration, 1 the start, which the
        panel calls iteration 0.
        """
        history = self._history(transform)
        kept = history.keep(index)
        if index is not None:
            history.index = index
        history.result = history.index
        return kept

    def updateOutputs(self, transform, outputVolume=None, outputJacobian=None) -> None:
        """Warped volume in the fixed geometry and Jacobian determinant, of the shown iteration."""
        products_task(transform, outputVolume, outputJacobian).now()

    def checkerboard(self, transform, output, squares: int = 8) -> None:
        """Fill a volume node with squares of the fixed and of the warped moving volume."""
        checkerboard_task(transform, output, squares).now()

    def evaluate(self, transform, fixedLandmarks, movingLandmarks) -> landmarks.Evaluation:
        """Landmark errors of the shown iteration: tables, coloured lines, and the curve's TRE."""
        job.loaded(job.LOADING_SECONDS)
        pairs = landmarks.pairs(fixedLandmarks, movingLandmarks, below=transform)
        moving = transforms.roles(transform)[1]
        grid = None if moving is None else volumes.grid_of(moving, below=transform)
        history = History.of(transform)
        if history is not None:
            Curve(history).show_errors(*pairs)
        field, told = transforms.field_of(transform), confidence.map_of(transform)
        return landmarks.evaluate(field, *pairs, transform, grid, told)

    def restore(self, transform) -> Session | None:
        """The iterations of an output transform, for instance of a scene that was just loaded."""
        return Session.of(transform)

    @staticmethod
    def _history(transform) -> History:
        history = History.of(transform)
        if history is None:
            raise InputError(f"'{transform.GetName()}' has no iterations: run Register first.")
        return history
