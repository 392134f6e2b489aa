"""The panel's section for a 4DCT: one sequence browser in place of two volumes, all phases at once.

Built here rather than in the .ui file, because it stands apart from what two volumes need.
"""

import qt
from slicer.i18n import tr as _

from ..engine.verdict import GOOD
from ..job import Failed
from ..scene import browsers
from ..scene.sequence import SequenceRun, SequenceSettings
from . import widgets
from .clicks import Clicks
from .messages import errors_shown, show_error

_POLL_MS = 20


class SequencePanel:
    """Chooses the browser and the reference, runs all phases, shows progress; see `widget`."""

    def __init__(self, torch, lender, device, factory=None):
        """torch: a requirements.PyTorch; lender: a lock.Lender; device(): the name of the one that
        is chosen; factory: what makes the registration, the engine's where left out."""
        self._torch, self._lender, self._factory = torch, lender, factory
        self._device = device
        self._run = self._making = None
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._poll)
        self._make_timer = qt.QTimer()
        self._make_timer.setSingleShot(True)  # a wait cursor lets other timers in
        self._make_timer.timeout.connect(self._make_on)
        self._told = ""  # what the last run said

        self.widget, form = widgets.section(_("4DCT: all phases of a sequence"))
        self.phasesSelector = widgets.selector(
            ["vtkMRMLScalarVolumeNode"],
            _("Loose volumes, one for each phase; their names, with numbers, tell the order"),
            checkable=True,
        )
        form.addRow(_("Loose phases:"), self.phasesSelector)
        self.makeButton = widgets.button(
            _("Make a sequence"),
            _("Copy the ticked volumes into a sequence, which is then chosen below"),
        )
        form.addRow(self.makeButton)
        self.browserSelector = widgets.selector(
            ["vtkMRMLSequenceBrowserNode"],
            _("The sequence browser that shows the phases of a breath"),
        )
        form.addRow(_("4DCT:"), self.browserSelector)
        self.referenceBox = qt.QSpinBox()
        self.referenceBox.setToolTip(
            _("Number of the phase that the others are brought to, from 0")
        )
        form.addRow(_("Reference phase:"), self.referenceBox)
        self.meanBox = qt.QCheckBox(_("Mean position instead of a phase"))
        form.addRow(self.meanBox)
        self.button = qt.QPushButton(_("Register all phases"))
        form.addRow(self.button)
        self.progressBar = qt.QProgressBar()
        form.addRow(self.progressBar)
        self.hint = qt.QLabel("")
        self.hint.setWordWrap(True)
        form.addRow(self.hint)
        self._clicks = Clicks(self.start_or_cancel)
        self.button.clicked.connect(lambda *_: self._clicks())
        self.makeButton.clicked.connect(lambda *_: self.make())
        self.browserSelector.currentNodeChanged.connect(lambda *_: self._chosen())
        self.meanBox.toggled.connect(lambda *_: self.refresh())
        self.refresh()

    @property
    def running(self):
        """Whether a registration is in progress."""
        return self._run is not None

    def make(self):
        """Begin to make a sequence of the ticked volumes, a phase at each turn of the window."""
        if self._making is not None:
            return
        with errors_shown(_("The sequence could not be made.")):
            phases = browsers.in_order(self.phasesSelector.checkedNodes())
            making = browsers.making_sequence(phases)
            next(making)  # refuses what is no breath
            self._making = making, phases
            self._make_timer.start(0)
        self.refresh()

    def start_or_cancel(self):
        """What the button does."""
        if self._run is not None:
            self.cancel()
        elif self._torch.ensure():
            with errors_shown(_("The registration could not be started.")):
                browser = self.browserSelector.currentNode()
                reference = "mean" if self.meanBox.checked else self.referenceBox.value
                settings = SequenceSettings(browser, reference, device=self._device())
                self._run = SequenceRun(settings, factory=self._factory)
                self._told = ""
                self._timer.start()
                self._lender.start()
            self.refresh()

    def cancel(self):
        """End the registration in progress, if any; the finished phases are kept."""
        if self._run is not None and not self._run.progress.total:
            self._run.abandon()  # it may wait behind another one's work: nothing is lost
            self._told = _("Cancelled: nothing was changed.")
            self._end()
        elif self._run is not None:
            self._run.cancel()
            self.button.setEnabled(False)
            self.button.setText(_("Cancelling..."))

    def abandon(self):
        """End it at once and without a result, because the scene goes away."""
        if self._making is not None:
            self._end_making()
        self._told = ""
        if self._run is not None:
            self._run.abandon()
            self._end()

    def refresh(self):
        """Bring the section up to date with its choices."""
        running = self._run is not None
        browser = self.browserSelector.currentNode()
        images = browser.GetMasterSequenceNode() if browser is not None else None
        count = images.GetNumberOfDataNodes() if images is not None else 0
        proxy = browsers.proxy_of(browser) if browser is not None else None
        usable = count >= browsers.LEAST and self._making is None
        usable = bool(usable and proxy and proxy.IsA("vtkMRMLScalarVolumeNode"))
        self.referenceBox.setMaximum(max(count - 1, 0))
        self.progressBar.setVisible(running)
        for choice in (self.browserSelector, self.meanBox, self.phasesSelector):
            choice.setEnabled(not running)
        self.makeButton.setEnabled(not running and self._making is None)
        self.referenceBox.setEnabled(not running and not self.meanBox.checked)
        self.button.setText(_("Cancel") if running else _("Register all phases"))
        self.button.setEnabled(running or usable)
        if not running:
            hint = _(
                "Choose a sequence browser with at least three phases, or make one of loose ones."
            )
            self._say(self._told if usable else hint)

    def _chosen(self):
        """Another browser: what was said is of the one before."""
        self._told = ""
        self.refresh()

    def _poll(self):
        run = self._run
        events = run.poll()
        if run.active:
            progress = run.progress
            self.progressBar.setMaximum(progress.total)  # 0, before the first phase: busy
            self.progressBar.setValue(progress.done)
            left = "" if progress.remaining is None else f", {round(progress.remaining)} s left"
            self._say(_("Phase {n} of {all}").format(n=progress.done, all=progress.total) + left)
            return
        failed = next((event for event in events if isinstance(event, Failed)), None)
        if failed is not None:
            self._told = _("The registration failed; the scene is as it was before.")
        elif run.outcome is None:
            self._told = _("Cancelled: nothing was changed.")
        else:
            self._told = _summary(run.outcome)
        self._end()
        if failed is not None:
            show_error(failed.message, failed.details)

    def _make_on(self):
        if self._making is None:
            return
        making, phases = self._making
        browser = None
        with errors_shown(_("The sequence could not be made.")):
            try:
                done = next(making)
            except StopIteration as end:
                browser = end.value
            else:
                self._say(_("Copied {n} of {all} phases").format(n=done, all=len(phases)))
                self._make_timer.start(0)
                return
        self._end_making()
        if browser is not None:
            self.browserSelector.setCurrentNode(browser)
            self.refresh()
            names = ", ".join(node.GetName() for node in phases)
            self._say(_("A sequence in this order: {names}.").format(names=names))

    def _end_making(self):
        self._make_timer.stop()
        self._making[0].close()
        self._making = None
        self.refresh()

    def _end(self):
        self._timer.stop()
        self._run = None
        self.refresh()

    def _say(self, text):
        self.hint.setText(text)


def _summary(outcome):
    count = len(outcome.registered)
    if outcome.cancelled:
        return _("Cancelled. {n} phases are registered.").format(n=count)
    text = _("Done: {n} phases. Play the sequence: the lungs stand still.").format(n=count)
    text += "\n" + _("Verdict: {verdict}.").format(verdict=outcome.result.verdict)
    for phase, verdict in outcome.result.verdicts.items():
        if verdict.level != GOOD:
            said = _("Phase {n}: {verdict}.").format(n=phase, verdict=verdict.level)
            text += "\n" + " ".join((said, *verdict.reasons))
    for name, values in outcome.loops.items():
        text += "\n" + _("Loop, {name}: {mm:.2f} mm").format(name=_(name), mm=values["mean"])
    return text
