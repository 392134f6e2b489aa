"""Sensible first choices among the nodes of the scene, to save the user some clicks."""

import slicer

from ..scene.nodes import MADE

_WORDS = {"fixed": ("fixed", "expir", "exhal"), "moving": ("moving", "inspir", "inhal")}


def pick_volumes(fixed, moving, not_these=()):
    """(fixed, moving) volume nodes: those given where they are, else by name, else in scene order.

    Label maps, hidden volumes, previews, maps and volumes without voxels do not count; None where
    none is left.
    """
    found = [
        volume
        for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        if volume.GetClassName() == "vtkMRMLScalarVolumeNode"
        and volume.GetImageData()
        and not volume.GetHideFromEditors()
        and not volume.GetAttribute(MADE)
        and volume not in not_these
    ]
    chosen = {"fixed": fixed, "moving": moving}
    for by_name in (True, False):
        for role, words in _WORDS.items():
            for volume in found:
                named = any(word in volume.GetName().lower() for word in words)
                if (
                    chosen[role] is None
                    and volume not in chosen.values()
                    and (named or not by_name)
                ):
                    chosen[role] = volume
    return chosen["fixed"], chosen["moving"]


def pick_landmarks(*volumes):
    """The point list named after each volume ("<volume> landmarks", ...), None if there is none.

    After several, as "CT_1 landmarks" after CT and CT_1, is after the one with the longest name.
    """
    picked = dict.fromkeys(volumes)
    for node in slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode"):
        name = node.GetName()
        owners = [v for v in volumes if v and name != v.GetName() and name.startswith(v.GetName())]
        owner = max(owners, key=lambda volume: len(volume.GetName()), default=None)
        if owner is not None and picked[owner] is None:
            picked[owner] = node
    return [picked[volume] for volume in volumes]
