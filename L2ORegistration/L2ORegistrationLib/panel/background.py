"""What takes long, away from the window: a scene.tasks.Task on the worker, its end in the scene."""

import traceback

import qt
import slicer
from slicer.i18n import tr as _

from .. import job
from ..core.errors import InputError
from .messages import show_error

_POLL_MS = 50


class Background:
    """One task after the other; the window stays free, because the worker computes."""

    def __init__(self, torch, lender, changed=None):
        """torch: a requirements.PyTorch; lender: a lock.Lender; changed(): called when a task has
        begun and when it has ended."""
        self._torch, self._lender = torch, lender
        self._changed = changed or (lambda: None)
        self._task = self._call = self._done = self._failed = None
        self._making = False
        self._waiting = []
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._poll)

    @property
    def running(self):
        """Whether a task is under way."""
        return self._call is not None or self._making

    def start(self, make, done, failed=None):
        """Begin the task that make() returns; done(found) is called with what its show() returns.

        failed(sentence, details) is called instead where something goes wrong, with "" where the
        user knows it already; left out, a popup is shown. While another task is running this one
        waits.
        """
        self._waiting.append((make, done, failed or show_error))
        self._next()

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
        except Exception as error:
            _tell(failed, error)
        self._changed()
        self._next()

    def _next(self):
        """Begin the first that can be begun of those that wait."""
        while self._waiting and not self.running:
            make, done, failed = self._waiting.pop(0)
            self._making = True  # a wait cursor and a popup let further clicks in
            try:
                task = self._made(make)
            except Exception as error:
                _tell(failed, error)
                continue
            finally:
                self._making = False
            if task is None:
                failed("", "")
                continue
            self._task, self._done, self._failed = task, done, failed
            self._call = job.Call(task.compute)
            self._timer.start()
            self._lender.start()
            self._changed()

    def _made(self, make):
        """The task; None where it needs PyTorch and that is not there, which has been said."""
        with slicer.util.WaitCursor():
            task = make()
        return task if not task.torch or self._torch.ensure() else None


def _tell(failed, error):
    if isinstance(error, InputError):
        failed(str(error), "")
    else:
        message = _("This could not be computed.")
        failed(f"{message} ({type(error).__name__}: {error})", traceback.format_exc())
