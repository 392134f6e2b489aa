"""Take the picture of the panel for the README: python Testing/window/picture.py OUTPUT.png

The sample phantom is registered by the real engine in the stand-in window, then the panel is drawn.
"""

import os
import sys
import time
from pathlib import Path

from PySide6 import QtWidgets
from standin import application


def main(path: str) -> None:
    """Register the sample data as a user would and save what the panel looks like then."""
    app = application.start()
    module = application.load_module()
    panel = application.open_panel()
    module.loadBreathingPhantom()
    QtWidgets.QApplication.processEvents()
    panel.ui.registerButton.click()
    while panel._registration.running:
        QtWidgets.QApplication.processEvents()
        time.sleep(0.01)
    panel.ui.advancedCollapsibleButton.collapsed = False
    app.window.statusBar().hide()
    app.window.resize(480, 1290)
    QtWidgets.QApplication.processEvents()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    app.window.grab().save(path)


if __name__ == "__main__":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    main(*sys.argv[1:])
