"""The Advanced section of the panel: the devices and models that there are on this computer."""

import qt
from slicer.i18n import tr as _

from ..engine.catalogue import METHODS, OLD_NAMES
from ..job import Call
from .messages import errors_shown

_POLL_MS = 50


class AdvancedPanel:
    """Offers devices and models; the worker, which loads torch, is asked once the user looks."""

    def __init__(self, ui, logic, torch, lender, parameters):
        """ui: the widgets of the .ui file; torch: a requirements.PyTorch; lender: a lock.Lender;
        parameters(): the parameter node, None if none."""
        self.ui, self.logic = ui, logic
        self._torch, self._lender = torch, lender
        self._parameters = parameters
        self._call = None
        self._found = [], []  # (value, text) each, as far as known
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._poll)
        ui.deviceComboBox.currentIndexChanged.connect(lambda *_: self._on_choice("device"))
        ui.modelComboBox.currentIndexChanged.connect(lambda *_: self._on_choice("model"))
        ui.advancedCollapsibleButton.contentsCollapsed.connect(lambda *_: self._look())

    def refresh(self):
        """Show what there is, as far as it is known, and what is chosen."""
        parameters = self._parameters()
        if not parameters:
            return
        devices = [("auto", _("Automatic")), *self._found[0]]
        _fill(self.ui.deviceComboBox, devices, parameters.device)
        model = OLD_NAMES.get(parameters.model, parameters.model)  # a scene may be of last year
        _fill(self.ui.modelComboBox, [("", _("Default")), *self._found[1]], model)

    def device(self):
        """The name of the device that is chosen."""
        parameters = self._parameters()
        return parameters.device if parameters else "auto"

    def follow_method(self):
        """Let weights be chosen only for a method that has some."""
        weights = METHODS[self._parameters().method.name].weights
        self.ui.modelComboBox.enabled = bool(weights)

    def come_after(self, widget):
        """Be reached by the Tab key after this widget, as it is seen, and not as it was made."""
        ui = self.ui
        for one in (
            *(ui.copyAsPythonButton, ui.deviceComboBox, ui.iterationsSpinBox, ui.startComboBox),
            *(ui.modelComboBox, ui.methodComboBox, ui.advancedCollapsibleButton),
        ):
            qt.QWidget.setTabOrder(widget, one)

    def stop(self):
        """Wait no longer for the answer."""
        self._timer.stop()
        self._call = None

    def _look(self):
        """Ask what there is, each time that the section is opened: free memory changes."""
        closed = self.ui.advancedCollapsibleButton.collapsed
        if closed or self._call is not None or self._torch.problem():
            return
        self._call = Call(self.logic.devicesAndModels)
        self._timer.start()
        self._lender.start()

    def _poll(self):
        if not self._call.done:
            return
        call = self._call
        self.stop()
        if self._torch.problem():
            return  # said when Register is pressed
        with errors_shown(_("The devices could not be listed.")):
            devices, models = call.value
            self._found = [(name, _described(*rest)) for name, *rest in devices], models
        self.refresh()

    def _on_choice(self, name):
        combo, parameters = getattr(self.ui, name + "ComboBox"), self._parameters()
        if parameters and combo.currentIndex >= 0:
            setattr(parameters, name, combo.itemData(combo.currentIndex))


def _described(device, free):
    if free is None:
        return device
    return _("{device} \u00b7 {free} MB free").format(device=device, free=free)


def _fill(combo, choices, chosen):
    """Offer (value, text) choices, also the chosen value if it is not among them."""
    if chosen not in dict(choices):
        choices = [*choices, (chosen, chosen)]
    blocked = combo.blockSignals(True)
    combo.clear()
    for value, text in choices:
        combo.addItem(text, value)
    combo.setCurrentIndex([value for value, _text in choices].index(chosen))
    combo.blockSignals(blocked)
