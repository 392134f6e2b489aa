"""A 4DCT in the scene: the phases of a sequence browser, registered to one of them.

The result is a sequence of transforms that the same browser plays in step with the images, which
lie under it: Slicer's own player then shows the lungs standing still. Everything is MRML nodes, so
that it is saved with the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Volume
from ..job import Failed, Finished, RegistrationJob
from . import browsers, nodes, transforms, volumes
from .background import BackgroundRun
from .before import Before
from .history import History
from .nodes import PREFIX


@dataclass
class SequenceOutcome:
    """What a registered breath left in the scene.

    browser: plays images and transforms together; transform: the proxy, under which the images
    lie; sequence: the transforms, reference -> phase, an item for each phase; volume: the
    motion-compensated mean, where asked for; loops: mm, by name (see
    sequence.registration.SequenceResult); result: the engine's; cancelled: the phases that were
    not finished have a transform without motion, and `registered` lists the others.
    """

    browser: Any
    transform: Any
    sequence: Any
    volume: Any
    registered: list[int]
    loops: dict[str, dict[str, float]]
    result: Any
    cancelled: bool


@dataclass
class SequenceSettings:
    """Nodes and options of one registration of a breath; the names are those of the console call.

    browser: a sequence browser whose master sequence holds the phases; reference: number of a
    phase, or "mean"; outputVolume: gets the motion-compensated mean; spacing: working resolution
    in mm, None: the engine's.
    """

    browser: Any
    reference: int | str = 0
    outputTransform: Any = None
    outputVolume: Any = None
    smooth: bool = True
    device: str = "auto"
    threads: int | None = None
    spacing: float | None = None

    def engine_arguments(self) -> dict[str, Any]:
        """The arguments of sequence.registration.SequenceRegistration. Raises InputError."""
        arguments = {
            "phases": browsers.phases_of(self.browser),
            "reference": self.reference,
            "smooth": self.smooth,
            "device": self.device,
            "threads": self.threads,
        }
        if self.spacing is not None:
            arguments["spacing"] = self.spacing
        if self.outputTransform is not None:
            name = self.outputTransform.GetName()
            if self.outputTransform.GetClassName() != "vtkMRMLTransformNode":
                raise InputError(f"'{name}' cannot hold a deformation: create a new transform.")
            if History.of(self.outputTransform) is not None:
                raise InputError(f"'{name}' has a pair's iterations: choose another transform.")
            earlier = browsers.transform_of(self.browser)
            under = transforms.is_under(browsers.proxy_of(self.browser), self.outputTransform)
            if under and self.outputTransform is not earlier:
                raise InputError(
                    f"The images are already under '{name}': take them out, or let a new transform "
                    "be made."
                )
        return arguments


class SequenceRun(BackgroundRun):
    """Starts at once; call poll() from a timer until `active` is False. Its steps are PhaseDone."""

    def __init__(self, settings: SequenceSettings, *, factory: Callable | None = None):
        """Reads the nodes and starts the worker. Raises InputError.

        factory: what makes the registration, SequenceRegistration by default.
        """
        self.settings = settings
        arguments = settings.engine_arguments()
        self._count = len(arguments["phases"])
        self._images = settings.browser.GetMasterSequenceNode()
        self._shown = browsers.proxy_of(settings.browser)
        self._sequence = self._transform = None
        self._made: list = []
        given = settings.outputTransform
        self._before = None if given is None else Before.of(given)
        self._parent = self._shown.GetTransformNodeID()
        self._earlier = browsers.motion_of(settings.browser)  # of a run that this one replaces
        self._registered: set[int] = set()
        wanted = settings.outputVolume is not None
        job = RegistrationJob(
            factory or _registration, after=lambda result: _mean(result, wanted), **arguments
        )
        needed = [settings.browser, self._images, self._shown]
        needed += [settings.outputVolume] if wanted else []
        super().__init__(settings.browser.GetScene(), needed, job)

    def _put_back(self) -> None:
        if self._transform is not None and self._shown.GetScene() is self._scene:
            self._shown.SetAndObserveTransformNodeID(self._parent)
        if self._sequence is not None and self.settings.browser.GetScene() is self._scene:
            self.settings.browser.RemoveSynchronizedSequenceNode(self._sequence.GetID())
            earlier = None if self._earlier is None else self._earlier.GetID()
            self.settings.browser.SetNodeReferenceID(browsers.ROLE, earlier)
        nodes.remove(*reversed(self._made))
        if self._before is not None:
            self._before.put_back(self._scene)

    def _take(self, event) -> None:
        if isinstance(event, Failed) or (isinstance(event, Finished) and event.result is None):
            self._undo()
        elif isinstance(event, Finished):
            self._finish(event)
        else:
            if self._sequence is None:
                self._begin(event.field)
            self._registered.add(event.phase)
            self._set(event.phase, event.field)

    def _begin(self, first: DisplacementField) -> None:
        settings, browser = self.settings, self.settings.browser
        name = f"{self._images.GetName()} motion"
        self._sequence = nodes.unique(self._scene, "vtkMRMLSequenceNode", name)
        self._made.append(self._sequence)
        self._sequence.SetIndexName(self._images.GetIndexName())
        self._sequence.SetIndexUnit(self._images.GetIndexUnit())
        self._sequence.SetIndexType(self._images.GetIndexType())
        still = DisplacementField.zeros(first.grid)
        for phase in range(self._count):
            self._set(phase, still)
        browser.AddSynchronizedSequenceNode(self._sequence)
        self._transform = browsers.as_proxy(browser, self._sequence, settings.outputTransform, name)
        if self._transform is not settings.outputTransform:
            self._made.append(self._transform)
        browser.SetSaveChanges(self._sequence, False)
        browser.SetOverwriteProxyName(self._sequence, False)
        browser.SetNodeReferenceID(browsers.ROLE, self._sequence.GetID())
        transforms.set_role(self._transform, "moving", browsers.proxy_of(browser))
        self._needed += [self._sequence, self._transform]
        self._show()
        below = None if self._earlier is None else browser.GetProxyNode(self._earlier)
        self._made += browsers.put_under(browsers.proxy_of(browser), self._transform, below)

    def _set(self, phase: int, motion: DisplacementField) -> None:
        node = slicer.vtkMRMLTransformNode()
        node.SetName(self._sequence.GetName())
        transforms.set_field(node, motion)
        self._sequence.SetDataNodeAtValue(node, self._images.GetNthIndexValue(phase))
        if self._transform is not None:
            self._show()

    def _show(self) -> None:
        """Let the proxies follow what changed in the shown item."""
        browser = self.settings.browser
        item = browser.GetSelectedItemNumber()
        data = self._sequence.GetNthDataNode(item) if 0 <= item < self._count else None
        if data is not None:
            self._transform.CopyContent(data)

    def _finish(self, event: Finished) -> None:
        result = event.result
        registered = sorted({*self._registered, *result.fields})
        for phase, motion in result.fields.items():
            self._set(phase, motion)
        summary = {
            name: {"mean": float(mm.mean()), "p95": float(np.percentile(mm, 95))}
            for name, mm in result.loops.items()
        }
        items = [self._sequence.GetNthDataNode(phase) for phase in range(self._count)]
        for node in (self._sequence, self._transform, *items):  # the proxy takes over its item's
            for key, value in result.provenance.items():
                node.SetAttribute(PREFIX + key, str(value))
            for name, values in summary.items():
                node.SetAttribute(f"{PREFIX}loop, {name}", f"{values['mean']:.3f} mm")
        for phase, verdict in result.verdicts.items():
            items[phase].SetAttribute(f"{PREFIX}verdict", verdict.level)
            items[phase].SetAttribute(f"{PREFIX}reasons", " ".join(verdict.reasons))
        self._show()
        if event.extra is not None:
            proxy = browsers.proxy_of(self.settings.browser)
            window = volumes.window_of(proxy)
            volumes.set_volume(self.settings.outputVolume, event.extra, window=window)
        if self._earlier is not None:
            browser = self.settings.browser
            shown = browser.GetProxyNode(self._earlier)
            browser.RemoveSynchronizedSequenceNode(self._earlier.GetID())
            between = self._scene.GetNodeByID(self._parent) if self._parent else None
            ours = between is not None and between.GetAttribute(browsers.BETWEEN)
            if shown is not None and shown is not self._transform:
                _move_below(shown, self._transform)
            own = shown is not browser.GetNodeReference(browsers.MADE)  # the user's, which stays
            nodes.remove(self._earlier, None if own or shown is self._transform else shown)
            if ours and not _is_used(between):
                nodes.remove(between)
        made = self._transform in self._made
        self.settings.browser.SetNodeReferenceID(
            browsers.MADE, self._transform.GetID() if made else None
        )
        self.active = False
        self.outcome = SequenceOutcome(
            browser=self.settings.browser,
            transform=self._transform,
            sequence=self._sequence,
            volume=self.settings.outputVolume,
            registered=registered,
            loops=summary,
            result=result,
            cancelled=event.cancelled,
        )


class SequenceLogic:
    """What the console calls for a 4DCT; a mix-in of the module's logic."""

    def makeSequence(self, phases: Sequence, name: str = "4DCT"):
        """A sequence browser of loose volume nodes, in this order; they stay in the scene.

        Raises InputError for fewer than three, or volumes of different grids.
        """
        return browsers.make_sequence(phases, name)

    def registerSequence(
        self,
        browser,
        reference: int | str = 0,
        outputTransform=None,
        outputVolume=None,
        smooth: bool = True,
        device: str = "auto",
        onPhase: Callable | None = None,
        **others,
    ) -> SequenceOutcome | None:
        """Register all phases of a sequence browser to one of them, and wait for it.

        reference: number of the phase, or "mean"; outputTransform: becomes the proxy of the
        transforms; outputVolume: gets the motion-compensated mean; onPhase: called with every
        PhaseDone; stops the run, keeping the finished phases, by returning False; others: threads,
        spacing. Raises InputError, or RuntimeError where the engine fails; the scene is then as
        before.
        """
        settings = SequenceSettings(
            browser, reference, outputTransform, outputVolume, smooth, device, **others
        )
        return SequenceRun(settings).wait(onPhase)


def _move_below(earlier, transform) -> None:
    """What the user put under the earlier transform follows the new one: points, contours, dose."""
    for node in nodes.of_class(transform.GetScene(), "vtkMRMLTransformableNode"):
        if node.GetParentTransformNode() is earlier and node is not transform:
            node.SetAndObserveTransformNodeID(transform.GetID())


def _is_used(transform) -> bool:
    """Whether any node is under a transform."""
    below = nodes.of_class(transform.GetScene(), "vtkMRMLTransformableNode")
    return any(node.GetParentTransformNode() is transform for node in below)


def _registration(**arguments):
    from ..sequence.registration import SequenceRegistration  # imports torch, on the worker

    return SequenceRegistration(**arguments)


def _mean(result, wanted: bool) -> Volume | None:
    """The motion-compensated mean, on the worker."""
    if not wanted:
        return None
    from ..sequence.motion import means

    return means(result)[1]
