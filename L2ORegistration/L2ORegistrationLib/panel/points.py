"""Follows the points of lists: placing or moving one does not modify what refers to the list."""

import qt
import slicer
from slicer.util import VTKObservationMixin

_EVENTS = (
    slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent,
    slicer.vtkMRMLMarkupsNode.PointPositionUndefinedEvent,
    slicer.vtkMRMLMarkupsNode.PointRemovedEvent,
    slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent,
)


class PointFollower(VTKObservationMixin):
    """Calls changed() soon after points of the lists that it follows now have changed, once."""

    def __init__(self, changed):
        VTKObservationMixin.__init__(self)
        self._lists = []
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(0)
        self._timer.timeout.connect(changed)

    def follow(self, lists):
        """Follow these markups nodes, None among them for none, instead of those before."""
        lists = [node for node in dict.fromkeys(lists) if node]
        if lists == self._lists:
            return
        self.removeObservers()
        self._timer.stop()
        self._lists = lists
        for node in lists:
            for event in _EVENTS:
                self.addObserver(node, event, self._onEvent)

    def _onEvent(self, caller, event):
        if not slicer.mrmlScene.IsBatchProcessing():
            self._timer.start()
