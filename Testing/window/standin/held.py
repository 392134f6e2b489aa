"""Qt's event loop as Slicer runs it: Python's lock is kept while it works and while it waits.

PySide6 releases the lock whenever it enters Qt, PythonQt never does, and so a worker thread gets on
in a PySide6 window where it would starve in Slicer's. Here the same C++ functions are called in a
way that keeps the lock. Only the calls of PySide6 that the panel itself makes still release it.
"""

import ctypes
import os
import time

import PySide6
from PySide6 import QtCore, QtWidgets

_PROCESS = "_ZN16QCoreApplication13processEventsE6QFlagsIN10QEventLoop17ProcessEventsFlagEE"
_EXEC = "_ZN16QCoreApplication4execEv"
_ALL, _WAIT_FOR_MORE = 0, 4
_LIBRARIES = "libQt6Core.so.6", "QtCore.framework/Versions/A/QtCore"  # Linux, macOS
_WAKE_MS = 20  # the longest wait for an event; a timer without a slot, which would lend the lock
_kept = {}


def process_events() -> None:
    """Handle what is waiting, without waiting for more."""
    _function(_PROCESS)(_ALL)


def process_events_for(seconds: float) -> None:
    """Handle events and wait for more, for so long."""
    if "timer" not in _kept:
        _kept["timer"] = timer = QtCore.QTimer()
        timer.start(_WAKE_MS)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        _function(_PROCESS)(_WAIT_FOR_MORE)


def run() -> int:
    """The event loop, until leave()."""
    return _function(_EXEC, arguments=[], result=ctypes.c_int)()


def leave(code: int = 0) -> None:
    """End run(), which then returns `code`."""
    QtWidgets.QApplication.exit(code)


def _function(symbol, arguments=(ctypes.c_int,), result=None):
    if symbol not in _kept:
        folder = os.path.join(os.path.dirname(PySide6.__file__), "Qt", "lib")
        paths = [os.path.join(folder, name) for name in _LIBRARIES]
        (library,) = [path for path in paths if os.path.exists(path)]
        _kept[symbol] = getattr(ctypes.PyDLL(library), symbol)  # PyDLL, unlike CDLL, keeps the lock
        _kept[symbol].argtypes, _kept[symbol].restype = list(arguments), result
    return _kept[symbol]
