"""The Advanced section of the panel: the devices and models that there are on this computer."""

from slicer.i18n import tr as _

from . import requirements
from .messages import errors_shown


class AdvancedPanel:
    """Offers devices and models; torch, which knows them, is asked once the user looks here."""

    def __init__(self, ui, logic, parameters):
        """ui: the widgets of the .ui file; parameters(): the parameter node, None if none."""
        self.ui, self.logic = ui, logic
        self._parameters = parameters
        ui.deviceComboBox.currentIndexChanged.connect(lambda *_: self._on_choice("device"))
        ui.modelComboBox.currentIndexChanged.connect(lambda *_: self._on_choice("model"))
        ui.advancedCollapsibleButton.contentsCollapsed.connect(lambda *_: self.refresh())

    def refresh(self):
        """Show what there is and what is chosen."""
        parameters = self._parameters()
        if not parameters:
            return
        devices, models = [("auto", _("Automatic"))], [("", _("Default"))]
        if not self.ui.advancedCollapsibleButton.collapsed and requirements.torch_ready():
            with errors_shown(_("The devices could not be listed.")):
                more = self.logic.devicesAndModels()
                devices += more[0]
                models += more[1]
        _fill(self.ui.deviceComboBox, devices, parameters.device)
        _fill(self.ui.modelComboBox, models, parameters.model)

    def _on_choice(self, name):
        combo, parameters = getattr(self.ui, name + "ComboBox"), self._parameters()
        if parameters and combo.currentIndex >= 0:
            setattr(parameters, name, combo.itemData(combo.currentIndex))


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
