"""How far off a result may be, as a volume node that its output transform refers to."""

from __future__ import annotations

from ..core.geometry import Volume
from . import nodes, volumes
from .history import History
from .nodes import PREFIX

_ROLE = "confidence"
_ITERATION = PREFIX + "iteration"
_RANGE_MM = 0.0, 8.0
# Of ColorBrewer's YlOrRd (Brewer and Harrower), pale where it is sure.
_SURE_TO_UNSURE = [
    (1.0, 1.0, 0.8),
    (0.996, 0.85, 0.463),
    (0.992, 0.553, 0.235),
    (0.89, 0.102, 0.11),
    (0.5, 0.0, 0.149),
]


def keep(transform, confidence: Volume, iteration: int):
    """Put a confidence (mm, 0 outside the lungs) of this iteration beside the output transform.

    Returns its volume node; an earlier one of the same transform is used again. It is hidden from
    lists of volumes, so that nobody registers it by mistake.
    """
    name = f"{transform.GetName()} confidence (mm)"
    node = nodes.owned(transform, _ROLE, "vtkMRMLScalarVolumeNode", name)
    node.SetAttribute(nodes.MADE, "confidence")
    low, high = _RANGE_MM
    volumes.set_volume(node, confidence, window=(high - low, (high + low) / 2))
    node.SetAttribute(_ITERATION, str(iteration))
    node.SetHideFromEditors(True)
    display = node.GetDisplayNode()
    colour = nodes.colours(transform.GetScene(), "Confidence", _SURE_TO_UNSURE)
    display.SetAndObserveColorNodeID(colour.GetID())
    display.SetThreshold(1e-3, 1e6)
    display.SetApplyThreshold(True)
    nodes.add_legend(node, "Confidence", "9 of 10 places\nare off by\nless than (mm)", "%.0f")
    return node


def of(transform):
    """The volume node of the result; None where it is not known, as after a correction is undone.

    It speaks of the result: of another iteration that is shown nothing is known.
    """
    history = History.of(transform)
    shown = history is not None and history.index == history.result
    return of_result(transform) if shown else None


def of_result(transform):
    """As of(), whichever iteration is shown."""
    node, history = transform.GetNodeReference(PREFIX + _ROLE), History.of(transform)
    if node is None or history is None:
        return None
    return node if node.GetAttribute(_ITERATION) == str(history.result) else None


def map_of(transform) -> Volume | None:
    """The voxels of `of(transform)`, for `outputs.points.told_at`; None where it is not known."""
    node = of(transform)
    return None if node is None else volumes.to_volume(node)
