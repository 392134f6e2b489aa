"""One registration from nodes to nodes: the job's steps become iterations in the scene.

The scene is touched for the first time when the first step has come, and what was made then is
undone if the run fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core import measures
from ..core.errors import InputError
from ..job import Failed, Finished, RegistrationJob
from ..outputs.registry import OUTPUTS
from . import confidence, display, nodes, transforms, unchanged, volumes
from .background import BackgroundRun
from .before import Before
from .curve import Curve
from .history import History
from .session import Session
from .settings import Settings


@dataclass
class Outcome:
    """What a registration left in the scene, and the numbers that go with it.

    transform: puts moving onto fixed, shows the best iteration; browser: steps through them;
    metrics: a dict for before, for the start and for each iteration (dissimilarity, stage, level,
    seconds, error in mm if landmarks, sdlogj and folding in the lungs); quality: sdlogj, folding
    and min of the Jacobian in the lungs of the best one; volume, jacobian: the chosen output nodes;
    result: the engine's Result; cancelled: stopped early, best so far kept; best: place in metrics
    of the iteration shown; note: what else the user should know.
    """

    transform: Any
    browser: Any
    metrics: list[dict]
    quality: dict[str, float]
    volume: Any
    jacobian: Any
    result: Any
    cancelled: bool
    best: int
    note: str = ""


class Run(BackgroundRun):
    """Starts at once; call poll() from a timer until `active` is False. Its steps are Steps."""

    def __init__(self, settings: Settings, *, preview: bool = True, factory=None):
        """Reads the nodes and starts the worker.

        preview: show the moving volume warped over the fixed one while it runs; factory: what
        makes the registration, engine.registration.Registration by default. Raises InputError.
        """
        self.settings = settings
        self.session: Session | None = None
        self._preview = preview
        arguments = self._arguments()
        images = settings.fixed, settings.moving
        self._described = unchanged.describe(*images, settings.outputTransform)
        self._landmarks = settings.landmark_pairs()
        self._made: list = []
        self._before = Before()
        self._earlier: History | None = None  # the iterations of a run that this one replaces
        self._restores = False
        outputs = {"warped": settings.outputVolume, "jacobian": settings.outputJacobian}
        self._outputs = {name: node for name, node in outputs.items() if node is not None}
        wanted = list(self._outputs)
        job = RegistrationJob(factory, after=lambda result: _products(result, wanted), **arguments)
        super().__init__(settings.fixed.GetScene(), settings.inputs(), job)

    def _arguments(self) -> dict:
        """What the engine gets."""
        return self.settings.engine_arguments()

    def wait(self, on_step: Callable | None = None) -> Outcome | None:
        """As BackgroundRun.wait(); the session, which nobody steps through, is closed."""
        super().wait(on_step)
        if self.session is not None:
            self.session.close()
        return self.outcome

    def cancel(self, restore: bool = False) -> None:
        """Stop after the iteration in progress and keep the best one; goes on until Finished.

        restore: where an earlier result would be replaced, keep that one instead.
        """
        self._restores = restore
        super().cancel()

    def _take(self, event) -> None:
        if isinstance(event, Failed):
            self._undo()
        elif isinstance(event, Finished):
            restored = self._restores and event.cancelled and self._earlier is not None
            if event.result is None or restored:
                self._undo()
            else:
                self._finish(event)
        else:
            self._show(event)

    def _metrics(self, step) -> dict:
        metrics = {
            "dissimilarity": step.dissimilarity,
            "stage": step.stage,
            "level": step.level,
            "seconds": round(step.seconds, 3),
        }
        if self._landmarks:
            fixed, moving = (one.points for one in self._landmarks)
            errors = measures.target_registration_error(step.field, fixed, moving)
            metrics["error"] = errors.mean()
        return metrics

    def _show(self, step) -> None:
        metrics = self._metrics(step)
        if self.session is None:
            self._begin(step.field, metrics)
            return
        self.session.history.append(step.field, **metrics)
        self.session.curve.update()

    def _begin(self, first, metrics: dict) -> None:
        settings, scene = self.settings, self._scene
        existing = _all_nodes(scene)
        self._before.layers = display.layers(scene)
        transform = settings.outputTransform
        if transform is None:
            name = f"{settings.moving.GetName()} to {settings.fixed.GetName()}"
            transform = nodes.unique(scene, "vtkMRMLTransformNode", name)
        else:
            self._before = Before.of(transform, self._before.layers)
        try:
            self._earlier = History.of(transform)
            if self._earlier is not None:
                self._earlier.set_leading(False)
            history = History.create(transform)
            history.append(first, **metrics)
            transforms.set_role(transform, "fixed", settings.fixed)
            transforms.set_role(transform, "moving", settings.moving)
            unchanged.remember(history, self._described)
            unchanged.check(transform)  # the engine has them as they were at the start
            self.session = Session(history, settings.moving if self._preview else None)
            if self._preview:
                display.show_blend(settings.fixed, self.session.preview.volume)
        finally:
            self._made = [node for node in _all_nodes(scene) if node not in existing]
        self._needed += [transform, history.browser, history.sequence]

    def _finish(self, event: Finished) -> None:
        self._finish_from(event, 0, event.result.best)
        earlier = self._earlier
        if earlier is not None and earlier.browser.GetScene() and earlier.sequence is not None:
            Curve(earlier).remove()  # else the user has taken them out already
            earlier.remove()

    def _finish_from(self, event: Finished, base: int, best: int, note: str = "") -> None:
        """Step n of the engine is iteration base + n; of the engine's steps `best` is shown."""
        settings, history, result = self.settings, self.session.history, event.result
        products = event.extra
        since = base + 1 if base else 0  # the engine's first step is not in a history twice
        history.describe({**result.provenance, "best": base + best}, since)
        qualities = products["qualities"][since - base :]
        for name in ("folding", "sdlogj") if qualities else ():
            history.add_metric(name, [quality[name] for quality in qualities], since)
        history.result = base + best
        self.session.lungs = result.fixed_mask
        self.session.select(base + best)
        if "warped" in products:
            window = volumes.window_of(settings.moving)
            volumes.set_volume(
                settings.outputVolume, products["warped"], like=settings.fixed, window=window
            )
        if "jacobian" in products:
            display.show_jacobian(settings.outputJacobian, products["jacobian"])
        for name, node in self._outputs.items():
            if name in products:
                node.SetNodeReferenceID(nodes.OUTPUT_OF, history.transform.GetID())
        confidence.keep(history.transform, products["confidence"], base + best)
        self.active = False
        self.outcome = Outcome(
            transform=history.transform,
            browser=history.browser,
            metrics=history.metrics(),
            quality=products["qualities"][best] if qualities else {},
            volume=settings.outputVolume,
            jacobian=settings.outputJacobian,
            result=result,
            cancelled=event.cancelled,
            best=base + best,
            note=(note + products["note"]).strip(),
        )

    def _put_back(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session.curve.remove()
            shown = self.session.history.transform
            self.session.history.remove()
            if shown is not self._before.transform:  # a browser replaces a deleted proxy
                nodes.remove(shown)
            self.session = None
        nodes.remove(*reversed(self._made))
        self._made = []
        if self._earlier is not None and self._earlier.browser.GetScene() is not None:
            self._earlier.set_leading(True)
        self._before.put_back(self._scene)


def _products(result, wanted: list[str]) -> dict:
    """What follows from the result and takes long; on the worker, without a node.

    wanted: keys of OUTPUTS; "note" names those that could not be made, which costs no result.
    """
    products = {"qualities": [], "note": ""}
    try:
        for step in result.steps:
            quality = measures.jacobian_summary(step.field, result.fixed_mask)
            products["qualities"].append(quality)
    except InputError:  # a mask so small that no node of the field lies in it
        pass
    products["confidence"] = result.confidence_image()
    for name in wanted:
        try:
            products[name] = OUTPUTS[name].compute(result)
        except Exception as error:  # such as memory that runs out
            reason = f"{type(error).__name__}: {error}"
            products["note"] += f" The {name} volume could not be made ({reason})."
    return products


def _all_nodes(scene) -> list:
    return [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
