"""The panel's section for a result that is wrong somewhere: landmarks pull it, then it goes on."""

from dataclasses import replace

import slicer
from slicer.i18n import tr as _

from ..scene import correction, transforms
from . import widgets
from .clicks import Clicks
from .messages import errors_shown


class CorrectionPanel:
    """Adds pairs of points, goes on from the iteration shown, takes that back; see `widget`."""

    def __init__(self, session, settings, registration, whole, undone):
        """session(): the Session, None for none; settings(): the Settings of what it shows;
        registration: a registration.RegistrationPanel, which runs it; whole(): lets the preview
        show the whole motion; undone(): called after iterations went."""
        self._session, self._settings = session, settings
        self._registration, self._whole, self._undone = registration, whole, undone
        self.widget, form = widgets.section(_("Correct by hand"))
        points = ["vtkMRMLMarkupsFiducialNode"]
        hint = widgets.label()
        widgets.say(
            hint,
            _(
                "Add a pair where the result is wrong, drag both points onto the same structure, "
                "the moving one in the warped volume, and go on."
            ),
        )
        form.addRow(hint)
        self.fixedSelector = widgets.selector(
            points, _("Points in the fixed volume where the result is wrong"), base="Points"
        )
        form.addRow(_("Fixed points:"), self.fixedSelector)
        self.movingSelector = widgets.selector(
            points, _("What belongs to them in the moving volume"), base="Points"
        )
        form.addRow(_("Moving points:"), self.movingSelector)
        self.addButton = widgets.button(
            _("Add a pair here"),
            _(
                "At the crosshair, or in the middle of the red view. Drag the fixed point onto a "
                "structure in the fixed volume, the moving one onto the same in the warped volume."
            ),
        )
        form.addRow(self.addButton)
        self.continueButton = widgets.button(
            _("Continue from here"),
            _("Bend the iteration shown through all pairs and let the optimiser go on with them"),
        )
        form.addRow(self.continueButton)
        self.undoButton = widgets.button(
            _("Undo the correction"), _("Take back the iterations of the last correction")
        )
        form.addRow(self.undoButton)
        for button, action in (
            (self.addButton, Clicks(self.add)),
            (self.continueButton, Clicks(self.go_on)),
            (self.undoButton, Clicks(self.undo)),
        ):
            button.clicked.connect(lambda *_, action=action: action())
        for selector in (self.fixedSelector, self.movingSelector):
            selector.currentNodeChanged.connect(lambda *_: self.refresh())
        self.refresh()

    def add(self):
        """One more pair, where the user looks."""
        self._whole()  # the points are seen under all of it
        with errors_shown(_("The pair could not be added.")):
            made = correction.add_pair(
                self._session().history.transform,
                _where(),
                self.fixedSelector.currentNode(),
                self.movingSelector.currentNode(),
            )
            self.fixedSelector.setCurrentNode(made[0])
            self.movingSelector.setCurrentNode(made[1])
        self.refresh()

    def go_on(self):
        """Start it; the Register button becomes Cancel."""
        self._whole()
        session = self._session()
        transform = session.history.transform
        images = dict(zip(("fixed", "moving"), transforms.roles(transform), strict=True))
        settings = replace(self._settings(), outputTransform=transform, **images)
        fixed, moving = self.fixedSelector.currentNode(), self.movingSelector.currentNode()
        self._registration.start(
            lambda: correction.Continuation(settings, fixed, moving, session=session)
        )
        self.refresh()

    def undo(self):
        """Take the last correction back."""
        with errors_shown(_("The correction could not be undone.")):
            session = self._session()
            session.history.undo()
            session.curve.update()
            self._undone()
        self.refresh()

    def abandon(self):
        """Another result is shown: these points are not of it."""
        for selector in (self.fixedSelector, self.movingSelector):
            selector.setCurrentNode(None)

    def refresh(self):
        """Bring the buttons up to date."""
        session = self._session()
        possible = session is not None and not self._registration.running
        pairs = self.fixedSelector.currentNode() and self.movingSelector.currentNode()
        self.addButton.setEnabled(possible)
        self.continueButton.setEnabled(possible and bool(pairs))
        self.undoButton.setEnabled(possible and session.history.can_undo)


def _where():
    """RAS of the crosshair, or of the middle of the red view where it is not shown."""
    scene = slicer.mrmlScene
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None and crosshair.GetCrosshairMode():
        return list(crosshair.GetCrosshairRAS())
    found = [n for n in slicer.util.getNodesByClass("vtkMRMLSliceNode")]
    red = next((n for n in found if n.GetLayoutName() == "Red"), found[0])
    matrix = red.GetSliceToRAS()
    return [matrix.GetElement(k, 3) for k in range(3)]
