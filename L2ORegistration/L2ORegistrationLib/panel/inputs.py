"""Sensible first choices among the nodes of the scene, to save the user some clicks."""

import slicer

_WORDS = {"fixed": ("fixed", "expir", "exhal"), "moving": ("moving", "inspir", "inhal")}


def pick_volumes(fixed, moving, not_these=()):
    """(fixed, moving) volume nodes: those given where they are, else by name, else in scene order.

    Label maps, hidden volumes and volumes without voxels do not count; None where none is left.
    """
    found = [
        volume
        for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        if volume.GetClassName() == "vtkMRMLScalarVolumeNode"
        and volume.GetImageData()
        and not volume.GetHideFromEditors()
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


def pick_landmarks(volume):
    """The point list named after the volume ("<volume> landmarks", ...), None if there is none."""
    if volume is None:
        return None
    for node in slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode"):
        if node.GetName() != volume.GetName() and node.GetName().startswith(volume.GetName()):
            return node
    return None
