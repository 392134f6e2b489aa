"""One registration from nodes to nodes: the job's steps become iterations in the scene.

Everything here runs on the main thread; only the job's own work does not. The scene is touched
for the first time when the first step has come, and what was made then is undone if the run fails.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from typing import Any

from ..core import measures
from ..core.errors import InputError
from ..job import Failed, Finished, Progress, RegistrationJob
from ..outputs.registry import OUTPUTS
from . import confidence, display, nodes, transforms, unchanged, volumes
from .before import Before
from .curve import Curve
from .history import History
from .session import Session
from .settings import Settings

_POLL_SECONDS = 0.03  # of the main thread, after which further steps wait for the next poll()


@dataclass
class Outcome:
    """What a registration left in the scene, and the numbers that go with it.

    transform: puts moving onto fixed, shows the best iteration; browser: steps through them;
    metrics: a dict per iteration (dissimilarity, stage, level, seconds, error in mm if landmarks,
    sdlogj and folding in the lungs); quality: sdlogj, folding and min of the Jacobian in the lungs
    of the best one; volume, jacobian: the chosen output nodes; result: the engine's Result;
    cancelled: stopped early, best so far kept; best: the iteration shown; note: what else the user
    should know.
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


class Run:
    """Starts at once; call poll() from a timer until `active` is False."""

    def __init__(self, settings: Settings, *, preview: bool = True, factory=None):
        """Reads the nodes and starts the worker.

        preview: show the moving volume warped over the fixed one while it runs; factory: what
        makes the registration, engine.registration.Registration by default. Raises InputError.
        """
        self.settings = settings
        self.session: Session | None = None
        self.outcome: Outcome | None = None
        self.active = True
        self._preview = preview
        arguments = self._arguments()
        self._scene = settings.fixed.GetScene()
        self._landmarks = settings.landmark_pairs()
        self._must_stay = settings.inputs()
        self._made: list = []
        self._before = Before()
        self._earlier: History | None = None  # the iterations of a run that this one replaces
        self._restores = False
        self._pending: list = []
        nodes_of = {"warped": settings.outputVolume, "jacobian": settings.outputJacobian}
        wanted = [name for name, node in nodes_of.items() if node is not None]
        self.job = RegistrationJob(
            factory, after=lambda result: _products(result, wanted), **arguments
        )

    def _arguments(self) -> dict:
        """What the engine gets."""
        return self.settings.engine_arguments()

    def poll(self, most: int | None = None) -> list:
        """The job's events since the last call (Step, Finished, Failed), when the scene shows them.

        most: leave further events for the next call. Never raises: whatever goes wrong is a
        Failed, after the scene is as it was before.
        """
        if not self.active:
            return []
        gone = [node for node in self._must_stay if node.GetScene() is not self._scene]
        if gone:
            self._undo()
            return [
                Failed(f"The registration stopped: '{gone[0].GetName()}' was taken from the scene.")
            ]
        self._pending += self.job.poll()
        events = []
        until = time.monotonic() + _POLL_SECONDS
        while self._pending and self.active and time.monotonic() < until and len(events) != most:
            event = self._pending.pop(0)
            try:
                self._take(event)
            except Exception as error:
                event = Failed(_sentence(error), traceback.format_exc(), error)
                self._undo()
            events.append(event)
        return events

    def cancel(self, restore: bool = False) -> None:
        """Stop after the iteration in progress and keep the best one; goes on until Finished.

        restore: where an earlier result would be replaced, keep that one instead.
        """
        self._restores = restore
        self.job.cancel()

    def abandon(self) -> None:
        """Stop and put the scene back at once; nothing is kept."""
        if self.active:
            self._undo()

    @property
    def progress(self) -> Progress:
        """Steps done and planned, seconds elapsed and remaining."""
        return self.job.progress

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
            unchanged.remember(history, settings.fixed, settings.moving)
            self.session = Session(history, settings.moving if self._preview else None)
            if self._preview:
                display.showBlend(settings.fixed, self.session.preview.volume)
        finally:
            self._made = [node for node in _all_nodes(scene) if node not in existing]
        self._must_stay += [transform, history.browser, history.sequence]

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
        history.describe(result.provenance, since)
        qualities = products["qualities"][since - base :]
        for name in ("folding", "sdlogj") if qualities else ():
            history.add_metric(name, [quality[name] for quality in qualities], since)
        history.result = base + best
        self.session.lungs = result.fixed_mask
        self.session.select(base + best)
        if settings.outputVolume is not None:
            window = volumes.window_of(settings.moving)
            volumes.set_volume(
                settings.outputVolume, products["warped"], like=settings.fixed, window=window
            )
        if settings.outputJacobian is not None:
            display.show_jacobian(settings.outputJacobian, products["jacobian"])
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
            note=note,
        )

    def _undo(self) -> None:
        self.active, self.outcome = False, None
        self.job.cancel()
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

    wanted: keys of OUTPUTS.
    """
    products = {"qualities": []}
    try:
        for step in result.steps:
            quality = measures.jacobian_summary(step.field, result.fixed_mask)
            products["qualities"].append(quality)
    except InputError:  # a mask so small that no node of the field lies in it
        pass
    products["confidence"] = result.confidence_image()
    return products | {name: OUTPUTS[name].compute(result) for name in wanted}


def _sentence(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    return f"The result could not be shown ({type(error).__name__}: {error})."


def _all_nodes(scene) -> list:
    return [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
