"""Prints for how long the window stands still, from the click on Register to the result.

The sample phantom is registered by the real engine in the stand-in window; a turn of Qt's event
loop that takes long is a moment in which nothing reacts. Run with L2ORegistration on PYTHONPATH.
"""

import os
import time

from PySide6 import QtWidgets
from standin import application


def main(runs: int = 4) -> None:
    """Open the panel, load the sample and register it `runs` times, as a user would."""
    application.start()
    module = application.load_module()
    panel = application.open_panel()
    module.loadBreathingPhantom()
    waited_for(0.5)  # the user looks at the panel
    registration = panel._registration
    for run in range(runs):
        shown = panel._session  # of an earlier run
        began, updates = time.perf_counter(), []
        turns = [turn(panel.ui.registerButton.click)]
        while registration.running:
            turns.append(turn(QtWidgets.QApplication.processEvents))
            session = panel._session
            steps = len(session.history) if session is not shown and session else 0
            if steps != (updates[-1] if updates else 0):
                updates.append(steps)
            time.sleep(0.002)
        for _ in range(20):  # the table of errors follows
            turns.append(turn(QtWidgets.QApplication.processEvents))
            time.sleep(0.01)
        longest = ", ".join(f"{1000 * t:.0f}" for t in sorted(turns, reverse=True)[:3])
        print(
            f"run {run + 1}: {time.perf_counter() - began:.1f} s, {len(updates)} live updates of "
            f"{steps} iterations; longest blocks {longest} ms; click {1000 * turns[0]:.0f} ms"
        )


def turn(action) -> float:
    """How many seconds an action took."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def waited_for(seconds: float) -> None:
    """Let Qt work for a while."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        QtWidgets.QApplication.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    main()
