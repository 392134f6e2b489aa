"""The Iterations section of the panel: step, play, fade, compare, show, keep and apply."""

import importlib.util
import os

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from ..scene import display, transforms
from ..scene.lung_grid import lung_grid_task
from ..scene.nodes import MADE
from ..scene.products import checkerboard_task, products_task
from .background import Background
from .clicks import Clicks
from .messages import errors_shown, show_error

_FLICKER_MS = 400
_PLAY_MS = 500
# Of the application's style; on a button without one its text stands.
_STANDARD_ICONS = {
    "previous": "SP_MediaSkipBackward",
    "next": "SP_MediaSkipForward",
    "play": "SP_MediaPlay",
}
_ICONS = "Blend", "SideBySide", "Flicker", "Checkerboard", "Reveal", "Grid", "Arrows", "Curve"


class IterationsPanel:
    """Walks through the iterations of a Session; without one, everything is disabled."""

    def __init__(self, ui, logic, torch, lender, icons, shown, outputs, registering):
        """ui: the widgets of the .ui file; torch: a requirements.PyTorch; lender: a lock.Lender;
        icons: the folder of the buttons' icons; shown(): called
        when another iteration is shown; outputs(): the (warped, Jacobian) volume nodes that were
        chosen, None for neither; registering(): whether a registration runs."""
        self.ui, self.logic = ui, logic
        self._shown, self._outputs, self._registering = shown, outputs, registering
        self._background, self._volumes = Background(torch, lender), Background(torch, lender)
        self.session = None
        self._observed = None
        self._reveal = None
        self._board = self._grid = None
        self._play_timer = _timer(_PLAY_MS, self._play_on)
        self._flicker_timer = _timer(_FLICKER_MS, lambda: display.flicker(slicer.mrmlScene))
        for name in _STANDARD_ICONS:
            getattr(ui, name + "Button").setIcon(_standard_icon(name))
        for name in _ICONS:
            button = getattr(ui, name[0].lower() + name[1:] + "Button")
            button.setIcon(qt.QIcon(os.path.join(icons, name + ".svg")))
        ui.iterationSlider.valueChanged.connect(self._on_slider)
        ui.previousButton.clicked.connect(lambda *_: self.step(-1))
        ui.nextButton.clicked.connect(lambda *_: self.step(+1))
        ui.playButton.toggled.connect(self._on_play)
        ui.strengthSlider.valueChanged.connect(self._on_strength)
        ui.blendButton.clicked.connect(lambda *_: self.blend())
        ui.sideBySideButton.clicked.connect(lambda *_: self._side_by_side())
        ui.flickerButton.toggled.connect(self._on_flicker)
        ui.checkerboardButton.clicked.connect(lambda *_: self._checkerboard())
        ui.revealButton.toggled.connect(self._on_reveal)
        ui.revealButton.setVisible(importlib.util.find_spec("CompareVolumes") is not None)
        ui.gridButton.toggled.connect(lambda on: self._on_show("grid", on))
        ui.arrowsButton.toggled.connect(lambda on: self._on_show("arrows", on))
        ui.curveButton.clicked.connect(lambda *_: self._show_curve())
        keep = Clicks(self._keep)
        ui.keepButton.clicked.connect(lambda *_: keep())
        ui.applyToButton.clicked.connect(lambda *_: self._apply())
        self.refresh()

    @property
    def fixed(self):
        """The fixed volume node of the session, None if it is gone."""
        return transforms.roles(self.session.history.transform)[0]

    def set_session(self, session):
        """Show this Session (None: nothing); the caller closes the one before."""
        self.stop()
        if self._observed:
            self._observed[0].RemoveObserver(self._observed[1])
            self._observed = None
        self.session = session
        if session is not None:
            browser = session.history.browser
            tag = browser.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self.refresh())
            self._observed = browser, tag
            self._resume()
        self.refresh()

    def _resume(self):
        """Go on as a scene that was loaded was left."""
        session = self.session
        drawn = display.drawn_as(session.history.transform)
        if drawn is not None:
            getattr(self.ui, drawn + "Button").setChecked(True)
        if session.preview is not None and self.fixed is not None:
            display.put_back(self.fixed, session.preview.volume)

    def stop(self):
        """End everything that runs on its own: playback, flicker, reveal, the shown grid."""
        for button in ("play", "flicker", "reveal", "grid", "arrows"):
            getattr(self.ui, button + "Button").setChecked(False)
        self.show_whole()

    def show_whole(self):
        """The whole motion, not a part of it."""
        self.ui.strengthSlider.value = 1.0

    def refresh(self):
        """Bring the widgets to what the browser shows, whoever moved it."""
        ui, session = self.ui, self.session
        count = len(session.history) if self._transform() is not None else 0
        for name in (
            *("previousButton", "playButton", "nextButton", "iterationSlider", "gridButton"),
            *("arrowsButton", "curveButton", "applyToButton", "applyToSelector"),
        ):
            getattr(ui, name).setEnabled(count > 0)
        # What takes long is computed after the registration, and would be of an iteration before.
        finished = count > 0 and not self._registering()
        ui.keepButton.setEnabled(finished)
        previewed = session is not None and session.preview and session.preview.volume.GetScene()
        comparable = bool(count > 0 and previewed and self.fixed is not None)
        for name in (
            *("blendButton", "sideBySideButton", "flickerButton"),
            *("revealButton", "strengthSlider"),
        ):
            getattr(ui, name).setEnabled(comparable)
        ui.checkerboardButton.setEnabled(comparable and finished)
        ui.iterationsHintLabel.setVisible(count == 0)
        ui.iterationLabel.setVisible(count > 0)
        if not count:
            return
        index = session.history.index
        blocked = ui.iterationSlider.blockSignals(True)
        ui.iterationSlider.setMaximum(count - 1)
        ui.iterationSlider.setValue(index)
        ui.iterationSlider.blockSignals(blocked)
        ui.iterationLabel.setText(self._description(index))
        self._shown()

    def step(self, by):
        """Show the iteration `by` further on."""
        self.ui.iterationSlider.setValue(self.ui.iterationSlider.value + by)

    def blend(self):
        """The warped volume half transparent over the fixed one."""
        self._stop_comparing()
        display.show_blend(self.fixed, self.session.preview.volume)

    def _transform(self):
        """The output transform, None without a session or after its nodes were removed."""
        there = self.session is not None and self.session.history.sequence is not None
        return self.session.history.transform if there else None

    def _description(self, index):
        history = self.session.history
        metrics = history.metrics()[index]
        parts = [_("Iteration {n} of {last}").format(n=index - 1, last=len(history) - 2)]
        if index == 0:
            parts = [_("Before the registration")]
        elif metrics.get("stage") == "start":
            parts.append(_("the start"))
        elif metrics.get("stage") == "corrected":
            parts.append(_("pulled by hand"))
        if history.description and index == history.result:  # described once it is finished
            parts[0] += _(" (result)")
        measures = []
        if "error" in metrics:
            measures.append(_("Landmark error {value:.2f} mm").format(value=metrics["error"]))
        if "dissimilarity" in metrics:
            measures.append(_("dissimilarity {value:.4f}").format(value=metrics["dissimilarity"]))
        return " \u00b7 ".join(parts) + "\n" + " \u00b7 ".join(measures)

    def _on_slider(self, index):
        if self.session is not None:
            self.session.select(index)

    def _on_play(self, on):
        slider = self.ui.iterationSlider
        self.ui.playButton.setText(_("Stop") if on else _("Play"))
        icon = slicer.app.style().standardIcon(qt.QStyle.SP_MediaStop)
        self.ui.playButton.setIcon(icon if on else _standard_icon("play"))
        if not on:
            self._play_timer.stop()
            return
        if slider.value == slider.maximum:
            slider.setValue(0)
        self._play_timer.start()

    def _play_on(self):
        self.step(+1)
        if self.ui.iterationSlider.value == self.ui.iterationSlider.maximum:
            self.ui.playButton.setChecked(False)

    def _on_strength(self, value):
        if self.session is not None:
            self.session.strength = value
            if self._drawn() is not None and self._transform() is not None:
                self.session.draw(self._drawn(), self._grid)

    def _drawn(self):
        """How the deformation is drawn: "grid", "arrows" or None."""
        ui = self.ui
        return "grid" if ui.gridButton.checked else "arrows" if ui.arrowsButton.checked else None

    def _stop_comparing(self):
        self.ui.flickerButton.setChecked(False)
        self.ui.revealButton.setChecked(False)

    def _side_by_side(self):
        self._stop_comparing()
        display.show_side_by_side(self.fixed, self.session.preview.volume)
        if self._grid is not None:
            self._grid.follow_views()
        slicer.util.resetSliceViews()

    def _on_flicker(self, on):
        if not on:
            self._flicker_timer.stop()
            return
        display.show_blend(self.fixed, self.session.preview.volume, 1.0)
        self._flicker_timer.start()

    def _checkerboard(self):
        self._stop_comparing()
        with errors_shown(_("The checkerboard could not be made.")):
            if self._board is None or self._board.GetScene() is None:
                name = slicer.mrmlScene.GenerateUniqueName(_("Checkerboard"))
                self._board = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
                self._board.SetAttribute(MADE, "checkerboard")
            transform, board = self.session.history.transform, self._board
            self._volumes.start(
                lambda: checkerboard_task(transform, board), lambda _none: None, self._failed
            )
            if self._volumes.running:
                display.show_blend(board, None, 0.0)  # at once; it is filled when it is made

    def _failed(self, sentence, details):
        if self.session is not None and self.session.preview is not None:
            self.blend()
        show_error(sentence, details)

    def _on_reveal(self, on):
        if self._reveal is not None:
            self._reveal.cleanup()
            self._reveal = None
        if on:
            from CompareVolumes import LayerReveal

            display.show_blend(self.fixed, self.session.preview.volume, 0.0)
            self._reveal = LayerReveal()

    def _on_show(self, mode, on):
        if on:
            other = self.ui.arrowsButton if mode == "grid" else self.ui.gridButton
            other.setChecked(False)
        self._drop_grid()
        transform = self._transform()
        if transform is None:
            return
        self.session.draw(mode if on else None)
        if on and mode == "grid" and self.session.lungs is not None:
            lungs = self.session.lungs
            self._background.start(
                lambda: lung_grid_task(transform, lungs), self._grid_made, lambda *_: None
            )

    def _grid_made(self, grid):
        self._grid = grid
        if self._transform() is not None and self.ui.gridButton.checked:
            self.session.draw("grid", grid)
        else:
            self._drop_grid()

    def _drop_grid(self):
        self._background.abandon()
        if self._grid is not None:
            self._grid.remove()
            self._grid = None

    def _show_curve(self):
        slicer.modules.plots.logic().ShowChartInLayout(self.session.curve.chart)

    def _keep(self):
        with errors_shown(_("The iteration could not be kept.")):
            transform = self.session.history.transform
            kept = self.logic.keepIteration(transform)
            self.update_outputs()
            self._say(_("The result now; copied to '{name}'.").format(name=kept.GetName()))
        self.refresh()

    def update_outputs(self):
        """Bring the chosen warped and Jacobian volumes to the iteration shown."""
        chosen = self._outputs()
        if any(node is not None for node in chosen):
            transform = self.session.history.transform
            field = transforms.field_of(transform)  # another may be shown before they begin
            self._volumes.start(
                lambda: products_task(transform, *chosen, field), lambda _none: None
            )

    def abandon(self):
        """The scene goes away."""
        self._volumes.abandon()
        self._board = None  # its voxels would stay in memory

    def _apply(self):
        nodes = list(self.ui.applyToSelector.checkedNodes())
        if not nodes:
            self._say(_("Tick what shall follow the moving volume first."))
            return
        with errors_shown(_("The transform could not be applied.")):
            done = self.logic.applyTo(nodes, self.session.history.transform)
            names = ", ".join(node.GetName() for node in done)
            self._say(_("Under the transform now: {names}").format(names=names))

    def _say(self, text):
        slicer.util.showStatusMessage(text, 5000)


def _standard_icon(name):
    return slicer.app.style().standardIcon(getattr(qt.QStyle, _STANDARD_ICONS[name]))


def _timer(interval, slot):
    timer = qt.QTimer()
    timer.setInterval(interval)
    timer.timeout.connect(slot)
    return timer
