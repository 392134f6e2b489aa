"""The iterations of a registration as a sequence whose proxy is the output transform.

Everything lives in MRML nodes, so that a saved scene brings it back: item n of the sequence is the
displacement grid after step n of the engine (item 0: zero) with its metrics as attributes, and the
browser says which one the output transform shows. The output transform gets its own copy of the
shown item (a few milliseconds at working-grid size), so that editing it never edits the history.

Items and steps count from 0, how it was before. Users count iterations, see title(): 0 is the
start, item 1. The sequence's index values, which Slicer's player shows, are these: -1, 0, 1, ...
"""

from __future__ import annotations

import slicer

from ..core.errors import InputError
from ..core.geometry import DisplacementField
from . import nodes, transforms
from .nodes import PREFIX

_BROWSER = PREFIX + "History"
_RESULT = PREFIX + "Result"
_EARLIER = PREFIX + "Earlier"  # of the browser: "length:result" of each state that undo() goes to
_METRIC, _PROVENANCE = PREFIX + "iteration.", PREFIX + "run."


def title(index: int) -> str:
    """What users call item `index`: iterations are counted from 0, the start."""
    return f"iteration {index - 1}" if index else "before the registration"


class History:
    """The iterations behind one output transform; as many of these views as you like may exist."""

    def __init__(self, browser):
        """browser: a vtkMRMLSequenceBrowserNode made by create(); see also of()."""
        self.browser = browser

    @classmethod
    def create(cls, transform) -> History:
        """A new, empty history whose proxy is this transform node.

        Raises InputError where the node is of a class that cannot be the proxy.
        """
        if transform.GetClassName() != "vtkMRMLTransformNode":
            raise InputError(
                f"'{transform.GetName()}' is a {transform.GetNodeTagName()} and cannot hold a "
                "deformation: create a new output transform."
            )
        scene = transform.GetScene()
        name = transform.GetName()
        sequence = nodes.unique(scene, "vtkMRMLSequenceNode", f"{name} iterations")
        sequence.SetIndexName("iteration")
        sequence.SetIndexUnit("")
        browser = nodes.unique(scene, "vtkMRMLSequenceBrowserNode", f"{name} browser")
        browser.SetAttribute(_BROWSER, "1")
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
        browser.AddProxyNode(transform, sequence, False)
        browser.SetSaveChanges(sequence, False)
        browser.SetOverwriteProxyName(sequence, False)
        browser.SetPlaybackRateFps(2)
        browser.SetPlaybackItemSkippingEnabled(False)
        browser.SetIndexDisplayFormat("%.0f")
        return cls(browser)

    @classmethod
    def of(cls, transform) -> History | None:
        """The history of an output transform, also after loading a scene; None if it has none.

        One that does not lead it any longer (`set_leading`) is not its history.
        """
        for browser in _browsers_of(transform):
            if browser.GetAttribute(_BROWSER):
                if browser.GetPlayback(browser.GetMasterSequenceNode()):
                    return cls(browser)
        return None

    @property
    def sequence(self):
        """The vtkMRMLSequenceNode with the iterations."""
        return self.browser.GetMasterSequenceNode()

    @property
    def transform(self):
        """The output transform, which shows the selected iteration."""
        return self.browser.GetProxyNode(self.sequence)

    def __len__(self) -> int:
        return self.sequence.GetNumberOfDataNodes()

    @property
    def index(self) -> int:
        """The item that the output transform shows; settable."""
        return self.browser.GetSelectedItemNumber()

    @index.setter
    def index(self, value: int) -> None:
        self.browser.SetSelectedItemNumber(max(0, min(int(value), len(self) - 1)))

    @property
    def result(self) -> int:
        """The item that is the result (the last one until it is set)."""
        value = self.browser.GetAttribute(_RESULT)
        return int(value) if value else len(self) - 1

    @result.setter
    def result(self, value: int) -> None:
        self.browser.SetAttribute(_RESULT, str(int(value)))

    def append(self, field: DisplacementField, **metrics) -> None:
        """Add the next iteration and show it. All fields of one history share one grid.

        metrics: numbers and words, kept with the iteration.
        """
        node = slicer.vtkMRMLTransformNode()
        node.SetName(self.transform.GetName())
        transforms.set_field(node, field)
        _set_attributes(node, _METRIC, metrics)
        value = -1
        if len(self):  # in a scene of before all are larger by one
            value = int(self.sequence.GetNthIndexValue(len(self) - 1)) + 1
        self.sequence.SetDataNodeAtValue(node, str(value))
        self.index = len(self) - 1

    def field(self, index: int) -> DisplacementField:
        """The motion fixed -> moving of item `index`, a copy in LPS mm."""
        return transforms.field_of(self._item(index))

    def metrics(self) -> list[dict]:
        """What append() and add_metric() were given, one dict per iteration; numbers as float."""
        return [
            {name: _number(value) for name, value in _attributes(self._item(i), _METRIC).items()}
            for i in range(len(self))
        ]

    def add_metric(self, name: str, values, since: int = 0) -> None:
        """One more metric, a value per iteration from `since` on."""
        for index, value in enumerate(values, since):
            _set_attributes(self._item(index), _METRIC, {name: value})

    @property
    def description(self) -> dict[str, str]:
        """Where the result comes from: version, model, parameters, ...; see describe()."""
        return _attributes(self.sequence, _PROVENANCE)

    def describe(self, provenance: dict, since: int = 0) -> None:
        """Write provenance onto every iteration, so that the transform and its copies have it.

        Under names of its own: "seconds" of the run are not those of an iteration. since: the
        first item that the run made.
        """
        items = [self._item(index) for index in range(since, len(self))]
        for node in (self.sequence, self.transform, *items):
            _set_attributes(node, _PROVENANCE, provenance)

    def remember(self) -> None:
        """What there is now is what undo() goes back to; further calls: step by step."""
        states = self._earlier()
        self.browser.SetAttribute(_EARLIER, " ".join([*states, f"{len(self)}:{self.result}"]))

    @property
    def can_undo(self) -> bool:
        """Whether undo() has something to go back to."""
        return bool(self._earlier())

    def undo(self) -> None:
        """Take back the iterations since the last remember(); the result of then is shown.

        Raises InputError where nothing is remembered.
        """
        states = self._earlier()
        if not states:
            raise InputError("There is nothing to undo: no correction was made.")
        count, result = map(int, states.pop().split(":"))
        self.index = result  # before what is shown goes
        for index in reversed(range(count, len(self))):
            self.sequence.RemoveDataNodeAtValue(self.sequence.GetNthIndexValue(index))
        self.browser.SetAttribute(_EARLIER, " ".join(states) or None)
        self.result = result
        made = _attributes(self._item(count - 1), _PROVENANCE)
        for node in (self.sequence, self.transform):
            for name in _attributes(node, _PROVENANCE):
                node.RemoveAttribute(_PROVENANCE + name)
            _set_attributes(node, _PROVENANCE, made)

    def _earlier(self) -> list[str]:
        return (self.browser.GetAttribute(_EARLIER) or "").split()

    def keep(self, index: int | None = None):
        """A copy of item `index` (None: the shown one) in a transform node of its own."""
        index = self.index if index is None else index
        shown = self.transform
        name = f"{shown.GetName()}, {title(index)}"
        node = nodes.unique(shown.GetScene(), "vtkMRMLTransformNode", name)
        node.CopyContent(self._item(index))
        node.RemoveAttribute("Sequences.BaseName")
        node.SetAttribute(PREFIX + "iteration", str(index - 1))
        for role, image in zip(("fixed", "moving"), transforms.roles(shown), strict=True):
            if image is not None:
                transforms.set_role(node, role, image)
        return node

    def set_leading(self, leading: bool) -> None:
        """Whether the output transform shows the selected iteration, or another history's.

        Any change of a browser, such as a node that it refers to going, lets its proxies show its
        own items again, and two browsers may have the same proxy.
        """
        self.browser.SetPlayback(self.sequence, leading)

    def remove(self) -> None:
        """Take the iterations out of the scene; the output transform stays and shows the last."""
        sequence = self.sequence
        nodes.remove(self.browser, sequence)  # in this order: without items it would still act

    def _item(self, index: int):
        item = self.sequence.GetNthDataNode(index) if 0 <= index < len(self) else None
        if item is None:
            raise InputError(
                f"There is no step {index}: choose 0, before the registration, to {len(self) - 1}."
            )
        return item


def player_of(transform):
    """A sequence browser, other than a History's, that leads this transform; None without one."""
    others = (one for one in _browsers_of(transform) if not one.GetAttribute(_BROWSER))
    return next(others, None)


def _browsers_of(transform) -> list:
    found = nodes.of_class(transform.GetScene(), "vtkMRMLSequenceBrowserNode")
    return [browser for browser in found if browser.IsProxyNodeID(transform.GetID())]


def _attributes(node, prefix: str) -> dict[str, str]:
    names = [name for name in node.GetAttributeNames() if name.startswith(prefix)]
    return {name[len(prefix) :]: node.GetAttribute(name) for name in names}


def _set_attributes(node, prefix: str, values: dict) -> None:
    for name, value in values.items():
        node.SetAttribute(prefix + name, str(value))


def _number(value: str):
    try:
        return float(value)
    except ValueError:
        return value
