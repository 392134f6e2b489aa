"""The panel's section for what follows a registration: confidence, inverse, volume change."""

import qt
from slicer.i18n import tr as _

from ..reporting.certainty import sentence
from ..scene import confidence, display, outputs, transforms, volumes
from ..scene.following import images_of
from ..scene.history import title
from . import widgets
from .background import Background
from .messages import show_error


class FollowingPanel:
    """Shows how sure the result is, makes the inverse and the ventilation maps; see `widget`."""

    def __init__(self, torch, lender, session, lungs):
        """torch: a requirements.PyTorch; lender: a lock.Lender; session(): the Session, None for
        none that is finished; lungs(fixed): what outputs.lungs_of() gives for the fixed volume
        node."""
        self._session, self._lungs = session, lungs
        self._background = Background(torch, lender, self.refresh)
        self.widget, form = widgets.section(_("Confidence, inverse and volume change"))
        self.confidenceButton = widgets.button(
            _("Show the estimated error"),
            _(
                "Colour the fixed lungs by the confidence: the distance in mm that 9 of 10 such "
                "places are off by less than"
            ),
        )
        form.addRow(self.confidenceButton)
        self.confidenceLabel = widgets.label()
        form.addRow(self.confidenceLabel)
        self.inverseButton = widgets.button(
            _("Make the inverse"),
            _("Add the transform from moving to fixed, and say its round-trip error in the lungs"),
        )
        form.addRow(self.inverseButton)
        self.inverseLabel = widgets.label()
        form.addRow(self.inverseLabel)
        self.regionsSelector = widgets.selector(
            ["vtkMRMLSegmentationNode"],
            _("More regions of the fixed scan, such as lobes: each segment gets a line"),
        )
        form.addRow(_("Regions:"), self.regionsSelector)
        self.ventilationButton = widgets.button(
            _("Map the volume change"),
            _("How much each part of the lungs fills with a breath, by the deformation and by HU"),
        )
        form.addRow(self.ventilationButton)
        self.ventilationLabel = widgets.label()
        form.addRow(self.ventilationLabel)
        self.regionsTable = widgets.table()
        header = self.regionsTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        self.regionsTable.setToolTip(
            _(
                "ml: at expiration; gain: ml from expiration to inspiration; J: gain per volume at "
                "expiration by the Jacobian; HU: the same by the densities, of both lungs as if no "
                "blood came or went; low: share of the region that fills less than half as much as "
                "the lungs do on average"
            )
        )
        form.addRow(self.regionsTable)
        self.confidenceButton.clicked.connect(lambda *_: self.show_confidence())
        self.inverseButton.clicked.connect(lambda *_: self.invert())
        self.ventilationButton.clicked.connect(lambda *_: self.map())
        self.refresh()

    @property
    def running(self):
        """Whether something is being computed."""
        return self._background.running

    def show_confidence(self):
        """Colour the fixed volume by how far off the result may be."""
        history = self._session().history
        node, fixed = confidence.of(history.transform), transforms.roles(history.transform)[0]
        if node is None:
            text = _(
                "There is no estimate of this result: it was kept by hand, or a correction was "
                "undone."
            )
            if confidence.of_result(history.transform) is not None:
                text = _("There is an estimate of the result ({which}): choose that one.")
            widgets.say(self.confidenceLabel, text.format(which=title(history.result)))
            return
        widgets.say(self.confidenceLabel, sentence(history.description))
        node.SetHideFromEditors(False)
        if fixed is not None:
            display.show_blend(fixed, node, 0.6)

    def invert(self):
        """Make the inverse of the iteration shown."""
        transform = self._session().history.transform
        fixed, _moving = transforms.roles(transform)
        self._begin(
            self.inverseLabel,
            _("Computing the inverse..."),
            lambda: outputs.inverse_task(transform, self._lungs(fixed) if fixed else None),
            self._inverted,
        )

    def map(self):
        """Map the ventilation between the two volumes, over the fixed one."""
        transform = self._session().history.transform
        wait = volumes.standstill(self.regionsSelector.currentNode())
        self._begin(
            self.ventilationLabel,
            " ".join(filter(None, (_("Computing the volume change..."), wait))),
            lambda: self._mapping(transform),
            lambda found: self._mapped(transform, *found),
        )

    def abandon(self):
        """Another result is shown, or the scene goes away."""
        self._background.abandon()
        self.regionsTable.setMRMLTableNode(None)
        self.regionsTable.setVisible(False)
        for label in (self.confidenceLabel, self.inverseLabel, self.ventilationLabel):
            widgets.say(label, "")
        self.refresh()

    def refresh(self):
        """Bring the buttons up to date."""
        possible = self._session() is not None and not self.running
        self.confidenceButton.setEnabled(self._session() is not None)
        self.inverseButton.setEnabled(possible)
        self.ventilationButton.setEnabled(possible)

    def _begin(self, label, text, make, done):
        """Start a task; its label says so until it has an end, whichever that is."""
        widgets.say(label, text)
        self._background.start(make, done, lambda *said: self._failed(label, *said))

    def _mapping(self, transform):
        images = images_of(transform)
        node = self.regionsSelector.currentNode()
        regions = None if node is None else outputs.masks_by_name(node)
        return outputs.ventilation_task(transform, *images, self._lungs(images[0]), regions)

    def _inverted(self, found):
        node, inverse = found
        text = _("'{name}' leads back.").format(name=node.GetName())
        widgets.say(self.inverseLabel, f"{text} {inverse.sentence()}")

    def _mapped(self, transform, maps, table, ventilation):
        widgets.say(self.ventilationLabel, ventilation.sentence())
        self.regionsTable.setMRMLTableNode(table)
        header = self.regionsTable.horizontalHeader()
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)  # names wrap, numbers are seen
        self.regionsTable.setVisible(True)
        display.show_blend(transforms.roles(transform)[0], maps["jacobian"], 0.6)

    def _failed(self, label, sentence, details):
        widgets.say(label, "")
        show_error(sentence, details)
