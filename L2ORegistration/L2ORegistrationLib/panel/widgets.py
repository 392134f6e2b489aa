"""The widgets of the sections that are built in code: each made in a line, narrow, explained."""

import ctk
import qt
import slicer


def section(title, collapsed=True):
    """(widget, form layout) of a titled part that folds away."""
    widget = ctk.ctkCollapsibleButton()
    widget.text = title
    widget.collapsed = collapsed
    return widget, qt.QFormLayout(widget)


def selector(kinds, tip, checkable=False, base=""):
    """A drop-down list of the scene's nodes of these classes; base: a new one may be made, too."""
    cls = slicer.qMRMLCheckableNodeComboBox if checkable else slicer.qMRMLNodeComboBox
    widget = cls()
    widget.nodeTypes = kinds
    widget.addEnabled = bool(base)
    widget.removeEnabled = False
    widget.noneEnabled = not checkable
    if base:
        widget.baseName = base
    widget.setMRMLScene(slicer.mrmlScene)
    widget.setToolTip(tip)
    narrow(widget)
    return widget


def narrow(widget):
    """Let it be as wide as there is room: the dock is as wide as its widest part."""
    widget.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)


def button(text, tip):
    """A push button."""
    widget = qt.QPushButton(text)
    widget.setToolTip(tip)
    return widget


def label():
    """A text that wraps, hidden as long as it is empty; see say()."""
    widget = qt.QLabel("")
    widget.setWordWrap(True)
    widget.setVisible(False)
    return widget


def say(widget, text):
    """Show a text in a label()."""
    widget.setText(text)
    widget.setVisible(bool(text))


def table():
    """A view of a table node whose columns share the width and whose rows are as high as needed."""
    widget = slicer.qMRMLTableView()
    share_width(widget)
    widget.setMinimumHeight(180)
    widget.setVisible(False)
    return widget


def share_width(view):
    """Cut no column of a table view off."""
    view.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
    view.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    view.verticalHeader().setVisible(False)
