"""The Register button, which says why it is disabled and becomes Cancel, and the progress below."""

from dataclasses import replace
from html import escape

import qt
import slicer
from slicer.i18n import tr as _

from ..job import Failed, Finished
from ..reporting.certainty import sentence
from ..scene import transforms
from ..scene.history import History
from .clicks import Clicks
from .messages import errors_shown, show_error

_POLL_MS = 20


class RegistrationPanel:
    """Runs one registration at a time; the window stays free, because the work is on a thread."""

    def __init__(self, ui, logic, torch, lender, settings, started, began, stepped, ended):
        """ui: the widgets of the .ui file; torch: a requirements.PyTorch; lender: a lock.Lender;
        settings(): the Settings now, None when there are none; started(): called when there is one;
        began(session), stepped(), ended(outcome): called when the first iteration is in the scene,
        when more are, and after the last; outcome is None where nothing came of it."""
        self.ui, self.logic = ui, logic
        self._torch, self._lender = torch, lender
        self._settings, self._started = settings, started
        self._began, self._stepped, self._ended = began, stepped, ended
        self._run = None
        self._session = None
        self._unseen = None  # what there was to say while another module was open
        self._last = None, 0, ()  # the last output and its result, and what was said of it
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._poll)
        self._clicks = Clicks(self._start_or_cancel)
        ui.registerButton.clicked.connect(lambda *_: self._clicks())

    @property
    def running(self):
        """Whether a registration is in progress."""
        return self._run is not None

    def start(self, make=None):
        """Start what make() gives, if torch is there; without it, what the settings say."""
        if self.running or not self._torch.ensure():
            return
        with errors_shown(_("The registration could not be started.")):
            self._run = make() if make is not None else self.logic.start(self._settings_to_run())
            self._timer.start()
            self._lender.start()
        self.refresh()
        if self.running:
            self._started()

    def cancel(self):
        """End the registration in progress, if any, after its iteration.

        Its best is kept, unless that would replace an earlier result, which then comes back.
        """
        if self._run is not None and not self._run.progress.done:
            self.abandon()  # it may wait behind another one's work: nothing is lost
            self._say(_("Cancelled: nothing was changed."))
        elif self._run is not None:
            self._run.cancel(restore=True)
            self.ui.registerButton.setEnabled(False)
            self.ui.registerButton.setText(_("Cancelling..."))

    def abandon(self):
        """End it at once and without a result, because the scene goes away."""
        self._unseen = None
        if self._run is not None:
            self._run.abandon()
            self._end(None)

    def refresh(self):
        """Bring the button up to date with the settings."""
        button, running = self.ui.registerButton, self._run is not None
        self.ui.progressBar.setVisible(running)
        self.ui.progressLabel.setVisible(running)
        if running:
            button.setText(_("Cancel"))
            button.setToolTip(
                _(
                    "Stop after this iteration and keep the best one so far; an output transform "
                    "that had a result before gets that one back"
                )
            )
            button.setEnabled(True)
            self._say("")
            self._show_progress()
            return
        settings = self._settings()
        problem = settings.problem() if settings else ""
        button.setText(_("Register"))
        button.setToolTip(problem or _("Align the moving volume with the fixed one"))
        button.setEnabled(settings is not None and not problem)
        said = (problem,)
        if settings and not problem:
            said = *self._said_of(settings.outputTransform), escape(settings.remark(), quote=False)
        self._show(*said)

    def _said_of(self, output):
        """What was said of the last run, as long as its result is that of the chosen output."""
        last, result, said = self._last
        history = History.of(output) if output is not None and output is last else None
        return said if history is not None and history.result == result else ()

    def _settings_to_run(self):
        """The Settings; an output with another pair's result is left alone, a new one made."""
        settings = self._settings()
        output = settings.outputTransform
        pair = settings.fixed, settings.moving
        if output is not None and History.of(output) is not None:
            if transforms.roles(output) != pair:
                return replace(settings, outputTransform=None)
        return settings

    def _start_or_cancel(self):
        if self._run is not None:
            self.cancel()
        else:
            self.start()

    def _poll(self):
        run = self._run
        events = run.poll()
        if run.session is not None and run.session is not self._session:
            self._session = run.session
            self._began(run.session)
        if events and run.session is not None:
            self._stepped()
        if run.active:
            self._show_progress()
            return
        self._end(run.outcome)
        said = ()
        for event in events:
            if isinstance(event, Failed):
                said = (_("The last registration failed; the scene is as it was before."),)
                if self._torch.ensure():  # otherwise the user has been told
                    show_error(event.message, event.details)
            elif isinstance(event, Finished):
                said = (_summary(run.outcome), _verdict(run.outcome, self._dark))
                if run.outcome is not None:
                    self._last = run.outcome.transform, run.outcome.best, said
        if said:
            self._say(*said)
            self._unseen = said if self._settings() is None else None

    def enter(self):
        """The user comes back to the module: say what happened meanwhile."""
        if self._unseen is not None:
            self._say(*self._unseen)
            self._unseen = None

    def _end(self, outcome):
        self._timer.stop()
        self._run = self._session = None
        self.refresh()
        self._ended(outcome)

    def _show_progress(self):
        progress = self._run.progress
        steps = self._session.history.metrics() if self._session else []
        parts = [_("Preparing")]
        if steps and progress.done:  # from the start on, which is iteration 0
            parts = [
                _("Iteration {n} of {all}").format(n=progress.done - 1, all=progress.total - 1),
                _("dissimilarity {value:.4f}").format(value=steps[-1]["dissimilarity"]),
            ]
        parts.append(_("{time} elapsed").format(time=_duration(progress.elapsed)))
        if progress.remaining is not None:
            parts.append(_("about {time} left").format(time=_duration(progress.remaining)))
        self.ui.progressBar.setMaximum(progress.total)  # 0, before the first step: busy
        self.ui.progressBar.setValue(progress.done)
        self.ui.progressLabel.setText(" \u00b7 ".join(parts))

    @property
    def _dark(self):
        """Whether the text stands on a dark ground, as in Slicer's dark style."""
        return self.ui.hintLabel.palette.color(qt.QPalette.Window).lightness() < 128

    def _say(self, text, *more):
        self._show(text, *more)
        slicer.util.showStatusMessage(text, 5000)

    def _show(self, *lines):
        text = "<br>".join(filter(None, lines))
        self.ui.hintLabel.setText(text)
        self.ui.hintLabel.setVisible(bool(text))


_COLOURS = {"good": "#2e7d32", "check": "#b26a00", "failed": "#c62828"}
_ON_DARK = {"good": "#81c784", "check": "#ffb74d", "failed": "#ff8a80"}


def _verdict(outcome, dark):
    """A coloured line: good, check or failed, and why; empty where nothing came of the run."""
    if outcome is None:
        return ""
    result = outcome.result
    text = _("Verdict: {verdict}.").format(verdict=result.verdict)
    said = (*result.reasons, sentence(result.provenance))
    text = " ".join((f"<b>{text}</b>", *map(escape, said)))
    colour = (_ON_DARK if dark else _COLOURS)[result.verdict]
    return f'<span style="color: {colour}">{text}</span>'


def _summary(outcome):
    if outcome is None:
        return _("Cancelled: nothing was changed.")
    text = _("Cancelled.") if outcome.cancelled else _("Done in {time}.")
    text = text.format(time=_duration(outcome.result.seconds)) + " "
    if outcome.best:
        text += _("Iteration {n} is the result.").format(n=outcome.best - 1)
    else:
        text += _("Without any motion the images match best: that is the result.")
    before, after = (outcome.metrics[k].get("error") for k in (0, outcome.best))
    if before is not None and after is not None:
        text += " " + _("Mean landmark error: {before:.2f} mm before, {after:.2f} mm now.").format(
            before=before, after=after
        )
    return f"{text} {_(outcome.note)}" if outcome.note else text


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return _("{m} min {s} s").format(m=minutes, s=seconds) if minutes else f"{seconds} s"
