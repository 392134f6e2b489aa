"""Lends Python's lock to the worker while the window waits.

Slicer's event loop keeps Python's lock while it waits for events, so that another thread gets on
only where Python code on the main thread lets go of the lock. This does, for a moment at a time.
"""

import qt

from .. import job

_LEND_SECONDS = 0.015  # long beside what an idle turn of the event loop takes, short for the user


class Lender:
    """Waits for the worker in short slots of the event loop until the worker rests."""

    def __init__(self):
        self._timer = qt.QTimer()
        self._timer.setInterval(0)  # whenever there is no other event
        self._timer.timeout.connect(self._lend)

    def start(self):
        """The worker has been given something to do."""
        self._timer.start()

    def stop(self):
        """Lend no longer, because the panel goes."""
        self._timer.stop()

    def _lend(self):
        if job.rests(_LEND_SECONDS):
            self._timer.stop()
