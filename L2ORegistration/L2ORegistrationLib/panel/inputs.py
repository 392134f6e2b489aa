"""The Inputs section of the panel: volumes, masks and landmarks; reads all that was chosen."""

import slicer

from ..engine.catalogue import METHODS
from ..scene.settings import Settings
from .picking import pick_landmarks, pick_volumes
from .points import PointFollower

_ROLES = "fixed", "moving"


def bind(parameters, ui):
    """Keep widgets and parameters equal; returns the function that ends it.

    Slicer before 5.12 forgets its observer in disconnectGui(), and that holds all the others of
    these parameters: each visit to the module would cost every later change a millisecond more.
    """
    node, tags = parameters.parameterNode, []

    def observe(*given):
        tags.append(node.AddObserver(*given))
        return tags[-1]

    parameters.AddObserver = observe
    gui = parameters.connectGui(ui)
    del parameters.AddObserver

    def end():
        parameters.disconnectGui(gui)
        for tag in tags:
            node.RemoveObserver(tag)

    return end


class InputsPanel:
    """Picks what can be picked, shows which segment is a mask, follows the landmarks."""

    def __init__(self, ui, parameters, registering, moved):
        """ui: the widgets of the .ui file; parameters(): the parameter node, None if none;
        registering(): whether a registration runs; moved(): called after a point of the chosen
        landmarks was placed, moved or removed."""
        self.ui = ui
        self._parameters, self._registering = parameters, registering
        self._points = PointFollower(moved)
        ui.fixedSegmentSelector.currentSegmentChanged.connect(lambda *_: self._on_segment("fixed"))
        ui.movingSegmentSelector.currentSegmentChanged.connect(
            lambda *_: self._on_segment("moving")
        )

    def settings(self):
        """The Settings of all that was chosen, in other sections, too; None without parameters."""
        node = self._parameters()
        if not node:
            return None
        masks = {}
        for role in _ROLES:
            mask, segment = getattr(node, role + "Mask"), getattr(node, role + "Segment")
            of_segment = mask and segment and mask.IsA("vtkMRMLSegmentationNode")
            masks[role + "Mask"] = (mask, segment) if of_segment else mask
        return Settings(
            fixed=node.fixedVolume,
            moving=node.movingVolume,
            **masks,
            fixedLandmarks=node.fixedLandmarks,
            movingLandmarks=node.movingLandmarks,
            initialTransform=node.initialTransform,
            outputTransform=node.outputTransform,
            outputVolume=node.outputVolume,
            outputJacobian=node.outputJacobian,
            method=node.method.name,
            start=node.start.name,
            iterations=node.iterations or None,
            model=node.model or None if METHODS[node.method.name].weights else None,
            device=node.device,
        )

    def outputs(self):
        """The (warped, Jacobian) volume nodes that were chosen, None for neither."""
        node = self._parameters()
        return node.outputVolume, node.outputJacobian

    def pick(self):
        """Choose volumes where there are none, and the landmarks that go with them."""
        node = self._parameters()
        if not node or self._registering() or slicer.mrmlScene.IsBatchProcessing():
            return
        volumes = pick_volumes(
            node.fixedVolume, node.movingVolume, (node.outputVolume, node.outputJacobian)
        )
        if volumes == (node.fixedVolume, node.movingVolume):
            return  # whoever chose no landmarks for them wants none
        with slicer.util.NodeModify(node.parameterNode):
            node.fixedVolume, node.movingVolume = volumes
            lists = pick_landmarks(*volumes)
            if all(lists) and not node.fixedLandmarks and not node.movingLandmarks:
                node.fixedLandmarks, node.movingLandmarks = lists

    def follow(self):
        """Follow the points of the landmarks that are chosen now; without parameters none."""
        node = self._parameters()
        self._points.follow((node.fixedLandmarks, node.movingLandmarks) if node else ())

    def refresh(self):
        """Bring the section up to date with what was chosen."""
        self.follow()
        for role in _ROLES:
            self._show_segment(role)

    def _show_segment(self, role):
        selector, node = getattr(self.ui, role + "SegmentSelector"), self._parameters()
        mask = getattr(node, role + "Mask")
        mask = mask if mask and mask.IsA("vtkMRMLSegmentationNode") else None
        segment = getattr(node, role + "Segment")
        if mask and segment and not mask.GetSegmentation().GetSegment(segment):
            segment = ""  # another segmentation was chosen
        blocked = selector.blockSignals(True)
        selector.setCurrentNode(mask)
        selector.setCurrentSegmentID(segment)
        selector.setVisible(mask is not None)
        selector.blockSignals(blocked)
        setattr(node, role + "Segment", segment)

    def _on_segment(self, role):
        selector, node = getattr(self.ui, role + "SegmentSelector"), self._parameters()
        if node and selector.currentNode():
            setattr(node, role + "Segment", selector.currentSegmentID())
