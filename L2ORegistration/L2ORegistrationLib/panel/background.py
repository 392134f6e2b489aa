"""What takes long, away from the window: a scene.tasks.Task on the worker, its end in the scene."""

import traceback

import qt
from slicer.i18n import tr as _

from .. import job
from ..core.errors import InputError
from .messages import errors_shown, show_error

_POLL_MS = 50


class Background:
    """One task after the other; the window stays free, because the worker computes."""

    def __init__(self, torch, lender, changed=None):
        """torch: a requirements.PyTorch; lender: a lock.Lender; changed(): called when a task has
        begun and when it has ended."""
        self._torch, self._lender = torch, lender
        self._changed = changed or (lambda: None)
        self._task = self._call = self._done = self._failed = None
        self._waiting = []
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._poll)

    @property
    def running(self):
        """Whether a task is under way."""
        return self._call is not None

    def start(self, make, done, failed=None):
        """Begin the task that make() returns; done(found) is called with what its show() returns.

        failed(sentence, details) is called instead where something goes wrong; a popup is shown
        where it is left out. While another task is running this one waits.
        """
        if self.running:
            self._waiting.append((make, done, failed))
            return
        with errors_shown(_("This could not be computed.")):
            try:
                task = make()
            except InputError as error:
                if failed is None:
                    raise
                failed(str(error), "")
                return
            if task.torch and not self._torch.ensure():
                return
            self._task = task
            self._done, self._failed = done, failed or show_error
            self._call = job.Call(self._task.compute)
            self._timer.start()
            self._lender.start()
        self._changed()

    def abandon(self):
        """Let what is under way, or waits, come to nothing, because the scene goes away."""
        self._waiting.clear()
        if self._call is not None:
            self._call.cancel()
        self._rest()

    def _rest(self):
        self._timer.stop()
        self._task = self._call = self._done = self._failed = None

    def _poll(self):
        if not self._call.done:
            return
        task, call, done, failed = self._task, self._call, self._done, self._failed
        self._rest()
        try:
            done(task.finish(call.value))
        except InputError as error:
            failed(str(error), "")
        except Exception as error:
            message = _("This could not be computed.")
            failed(f"{message} ({type(error).__name__}: {error})", traceback.format_exc())
        self._changed()
        if self._waiting and not self.running:
            self.start(*self._waiting.pop(0))
