"""The Evaluation section of the panel: landmark errors, folding, and TG-132's table."""

import qt
from slicer.i18n import tr as _

from .. import job
from ..core.errors import InputError
from ..scene import landmarks, transforms, volumes
from ..scene.quality import quality_task, verdict_of
from . import widgets
from .background import Background

_DELAY_MS = 200  # so that walking through the iterations stays quick


class EvaluationPanel:
    """Shows the errors of the iteration shown as soon as there are landmarks and a result."""

    def __init__(self, ui, logic, torch, lender, landmarks, lungs):
        """torch: a requirements.PyTorch; lender: a lock.Lender; landmarks(): the (fixed, moving)
        markups nodes chosen for what is shown, None for neither; lungs(fixed): what
        outputs.lungs_of() gives for the fixed volume node."""
        self.ui, self.logic = ui, logic
        self._landmarks, self._lungs = landmarks, lungs
        self._background = Background(torch, lender)
        self._history = self._transform = None
        self._evaluation = self._quality = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_DELAY_MS)
        self._timer.timeout.connect(self.update)
        widgets.share_width(ui.evaluationTable)
        ui.errorLinesCheckBox.toggled.connect(lambda *_: self._show())
        ui.everyLandmarkCheckBox.toggled.connect(lambda *_: self._show())
        ui.qualityCheckBox.toggled.connect(lambda *_: self.update())
        for selector in (ui.fixedStructuresSelector, ui.movingStructuresSelector):
            selector.currentNodeChanged.connect(lambda *_: self.update_soon())
        self.set_session(None)

    def set_session(self, session):
        """Evaluate this Session (None: nothing) from now on."""
        history = session.history if session is not None else None
        self._history = history
        self._transform = history.transform if history else None
        self._background.abandon()  # what is computed now is of the one before
        self._quality = None
        self.update()

    def update_soon(self):
        """Evaluate again, once, when calls of this have stopped coming."""
        self._timer.start()

    def stop(self):
        """Cancel what update_soon() planned."""
        self._timer.stop()
        self._background.abandon()

    def update(self):
        """Evaluate now, or as soon as that can be done."""
        self._timer.stop()
        fixed, moving = self._landmarks()
        there = self._there
        if fixed and moving and there and not job.loaded():
            self.update_soon()
            return
        evaluation = None
        self._describe(self._history if there else None)
        hint = ""
        if not fixed or not moving:
            hint = _(
                "Choose fixed and moving landmarks, with the volumes that they are of (Inputs), to "
                "measure the accuracy."
            )
        elif not there:
            hint = _("The landmark errors appear here after the registration.")
        else:
            try:
                evaluation = self.logic.evaluate(self._transform, fixed, moving)
                hint = landmarks.unpaired(fixed, moving, below=self._transform)
            except InputError as error:  # no popup: this is not what the user is busy with
                hint = str(error)
        if self._evaluation is not None and evaluation is None:
            self._set_lines(self._evaluation.lines, False)
        self._evaluation = evaluation
        assessing = there and self.ui.qualityCheckBox.checked
        if assessing:
            said = hint if evaluation is not None else "", volumes.standstill(*self._structures())
            hint = " ".join(filter(None, said))
        self._hint(hint)
        if assessing:
            self._assess(fixed, moving)  # says itself why it can't
        self._show()

    @property
    def _there(self):
        return self._transform is not None and self._transform.GetScene() is not None

    def _assess(self, fixed, moving):
        """TG-132's rows, on the worker."""
        if self._background.running:
            self.update_soon()  # what is computed now is of another iteration
            return
        transform, structures = self._transform, self._structures()
        image = transforms.roles(transform)[0]
        self._background.start(
            lambda: quality_task(
                transform,
                (fixed, moving) if fixed and moving else None,
                structures,
                self._lungs(image) if image else None,
            ),
            self._assessed,
            self._not_assessed,
        )

    def _structures(self):
        """The segmentation nodes that were chosen in the fixed and the moving scan, or None."""
        selectors = self.ui.fixedStructuresSelector, self.ui.movingStructuresSelector
        return [selector.currentNode() for selector in selectors]

    def _assessed(self, found):
        self._quality = found[0]
        self._show()

    def _not_assessed(self, sentence, _details):
        self._quality = None  # that of before would be of something else
        self._hint(sentence)
        self._show()

    def _hint(self, text):
        widgets.say(self.ui.evaluationHintLabel, text)

    def _show(self):
        ui, evaluation = self.ui, self._evaluation
        assessing = self._there and ui.qualityCheckBox.checked
        ui.qualityCheckBox.setVisible(self._there)
        for widget in (
            *(ui.fixedStructuresSelector, ui.fixedStructuresSelectorLabel),
            *(ui.movingStructuresSelector, ui.movingStructuresSelectorLabel),
        ):
            widget.setVisible(assessing)
        ui.errorLinesCheckBox.setVisible(evaluation is not None)
        ui.everyLandmarkCheckBox.setVisible(evaluation is not None and not assessing)
        table = None
        if assessing:
            table = self._quality
        elif evaluation is not None:
            every = ui.everyLandmarkCheckBox.checked
            table = evaluation.table if every else evaluation.summary_table
        if evaluation is not None:
            self._set_lines(evaluation.lines, ui.errorLinesCheckBox.checked)
        if ui.evaluationTable.mrmlTableNode() is not table:
            ui.evaluationTable.setMRMLTableNode(table)
        ui.evaluationTable.setVisible(table is not None)

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
        if history and self.ui.qualityCheckBox.checked and (said := verdict_of(self._transform)):
            text += "\n" + _("Verdict of the registration: {said}").format(said=said)
        widgets.say(self.ui.deformationLabel, text.strip())
