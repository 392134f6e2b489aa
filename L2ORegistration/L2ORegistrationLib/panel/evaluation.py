"""The Evaluation section of the panel: landmark errors before and after, and folding."""

import qt
from slicer.i18n import tr as _

from .. import job
from ..core.errors import InputError
from ..scene import landmarks

_DELAY_MS = 200  # so that walking through the iterations stays quick


class EvaluationPanel:
    """Shows the errors of the iteration shown as soon as there are landmarks and a result."""

    def __init__(self, ui, logic, landmarks):
        """landmarks(): the (fixed, moving) markups nodes chosen, None for neither."""
        self.ui, self.logic = ui, logic
        self._landmarks = landmarks
        self._history = self._transform = None
        self._evaluation = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_DELAY_MS)
        self._timer.timeout.connect(self.update)
        header = ui.evaluationTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.Stretch)  # no column is cut off
        ui.evaluationTable.verticalHeader().setVisible(False)
        ui.errorLinesCheckBox.toggled.connect(lambda *_: self._show())
        ui.everyLandmarkCheckBox.toggled.connect(lambda *_: self._show())
        self.set_session(None)

    def set_session(self, session):
        """Evaluate this Session (None: nothing) from now on."""
        history = session.history if session is not None else None
        self._history = history
        self._transform = history.transform if history else None
        self.update()

    def update_soon(self):
        """Evaluate again, once, when calls of this have stopped coming."""
        self._timer.start()

    def stop(self):
        """Cancel what update_soon() planned."""
        self._timer.stop()

    def update(self):
        """Evaluate now, or as soon as that can be done."""
        self._timer.stop()
        fixed, moving = self._landmarks()
        there = self._transform is not None and self._transform.GetScene() is not None
        if fixed and moving and there and not job.loaded():
            self.update_soon()
            return
        evaluation = None
        self._describe(self._history if there else None)
        hint = ""
        if not fixed or not moving:
            hint = _("Choose fixed and moving landmarks (Inputs) to measure the accuracy.")
        elif not there:
            hint = _("The landmark errors appear here after the registration.")
        else:
            try:
                evaluation = self.logic.evaluate(self._transform, fixed, moving)
                hint = landmarks.unpaired(fixed, moving)
            except InputError as error:  # no popup: this is not what the user is busy with
                hint = str(error)
        if self._evaluation is not None and evaluation is None:
            self._set_lines(self._evaluation.lines, False)
        self._evaluation = evaluation
        self.ui.evaluationHintLabel.setText(hint)
        self.ui.evaluationHintLabel.setVisible(bool(hint))
        self._show()

    def _show(self):
        ui, evaluation = self.ui, self._evaluation
        for name in ("evaluationTable", "errorLinesCheckBox", "everyLandmarkCheckBox"):
            getattr(ui, name).setVisible(evaluation is not None)
        table = None
        if evaluation is not None:
            every = ui.everyLandmarkCheckBox.checked
            table = evaluation.table if every else evaluation.summary_table
            self._set_lines(evaluation.lines, ui.errorLinesCheckBox.checked)
        if ui.evaluationTable.mrmlTableNode() is not table:
            ui.evaluationTable.setMRMLTableNode(table)

    @staticmethod
    def _set_lines(model, visible):
        if model.GetScene() is not None:
            model.GetDisplayNode().SetVisibility(visible)

    def _describe(self, history):
        metrics = history.metrics()[history.index] if history else {}
        text = ""
        if "folding" in metrics:
            text = _(
                "Deformation in the lungs: {folding:.2%} folded, SD of log Jacobian {sdlogj:.3f}"
            ).format(**metrics)
        self.ui.deformationLabel.setText(text)
        self.ui.deformationLabel.setVisible(bool(text))
