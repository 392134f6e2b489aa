"""Prints how long a registration takes in a window that keeps Python's lock, and in plain Python.

    PYTHONPATH=L2ORegistration python Testing/window/benchmark_responsiveness.py [RUNS]

The sample phantom is registered by the real engine, in turn by a loop in plain Python and by the
panel in an event loop that keeps the lock, as Slicer's does. A timer beats all the while: the time
between two beats is how long the window did not answer.
"""

import os
import statistics
import sys
import time

from L2ORegistrationLib.job import Finished, RegistrationJob, rests
from L2ORegistrationLib.phantom.pair import make_pair
from PySide6 import QtCore
from standin import application, held

_BEAT_MS = 5


def main(runs: int = 3) -> None:
    """Register `runs` times each way and compare."""
    application.start()
    module = application.load_module()
    beats = Beats()
    panel = application.open_panel()
    until(rests)
    print(f"loading torch: {beats.text()}")
    module.loadBreathingPhantom()
    pair = make_pair(7, spacing=2.5, amplitude_mm=22.0, swap=False)  # the same
    plain(pair)  # warms up
    seconds, silences = {"plain": [], "window": []}, []
    for run in range(1, runs + 1):
        seconds["plain"].append(plain(pair))
        held.process_events_for(1.0)  # the user looks at the panel
        beats.begin()
        began = time.perf_counter()
        panel.ui.registerButton.click()
        until(lambda: not panel._registration.running)
        seconds["window"].append(time.perf_counter() - began)
        held.process_events_for(0.5)  # the table of errors follows
        silences += beats.silences
        print(
            f"run {run}: {seconds['window'][-1]:.1f} s in the window, {seconds['plain'][-1]:.1f} s "
            f"in plain Python; {beats.text()}"
        )
    ratio = statistics.median(seconds["window"]) / statistics.median(seconds["plain"])
    print(f"ratio of the medians {ratio:.2f}; all runs: {described(silences)}")
    application.close_panel(panel)


def plain(pair) -> float:
    """Seconds of a registration without a window."""
    began, job, events = (
        time.perf_counter(),
        RegistrationJob(fixed=pair.fixed, moving=pair.moving),
        [],
    )
    while job.active:
        events += job.poll()
        time.sleep(0.02)
    assert isinstance(events[-1], Finished), events[-1]
    return time.perf_counter() - began


def until(condition) -> None:
    """Run the event loop until a condition holds; it is asked seldom, each time lends the lock."""
    while not condition():
        held.process_events_for(0.1)


class Beats:
    """A timer that notes when it is called."""

    def __init__(self):
        self.silences = []
        self._timer = QtCore.QTimer()
        self._timer.timeout.connect(self._beat)
        self._timer.start(_BEAT_MS)
        self.begin()

    def begin(self):
        """Forget what was."""
        self.silences.clear()
        self._last = time.perf_counter()

    def _beat(self):
        now = time.perf_counter()
        self.silences.append(now - self._last)
        self._last = now

    def text(self):
        """What was measured since begin()."""
        return described(self.silences)


def described(silences) -> str:
    """The distribution of the times (s) between two beats, in words."""
    milliseconds = sorted(1000 * silence for silence in silences)
    median, high = (milliseconds[int(q * (len(milliseconds) - 1))] for q in (0.5, 0.99))
    return (
        f"the window was silent for {median:.0f} ms at the median, {high:.0f} at 99 %, "
        f"{milliseconds[-1]:.0f} at most ({len(milliseconds)} times)"
    )


if __name__ == "__main__":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    main(*map(int, sys.argv[1:]))
