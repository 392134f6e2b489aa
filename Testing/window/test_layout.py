"""The panel in a narrow dock: everything is shown, nothing is cut off, buttons have icons."""

import re

import numpy as np
import pytest
from fixtures import process_events, wait_for
from PySide6 import QtCore, QtGui, QtWidgets
from standin import application

DOCK = 450  # pixels of Slicer's module panel
SCROLL_BAR = 16


@pytest.fixture
def large_font(app):
    """12 point, as on many screens; Qt's own size afterwards."""
    application_ = QtWidgets.QApplication.instance()
    before = application_.font()
    larger = QtGui.QFont(before)
    larger.setPointSize(12)
    application_.setFont(larger)
    yield
    application_.setFont(before)


def open_everything(panel):
    ui = panel.ui
    for name in ("inputs", "optional", "registration", "iterations", "evaluation", "advanced"):
        getattr(ui, name + "CollapsibleButton").collapsed = False
    for section in panel._sections:
        section.widget.collapsed = False
    ui.revealButton.setVisible(True)  # as in Slicer, which has Compare Volumes
    process_events(0.1)


def test_it_fits_a_dock_of_450_pixels(large_font, registered):
    open_everything(registered)
    assert registered.parent.minimumSizeHint().width() <= DOCK - SCROLL_BAR


def test_no_button_is_cut_off(large_font, registered):
    open_everything(registered)
    application.slicer.app.window.resize(DOCK, 1200)
    process_events(0.1)
    own = [
        (type(s).__name__ + "." + n, w) for s in registered._sections for n, w in vars(s).items()
    ]
    for name, widget in [*vars(registered.ui).items(), *own]:
        if name.lower().endswith("button") and isinstance(
            widget, QtWidgets.QToolButton | QtWidgets.QPushButton
        ):
            right = widget.mapTo(registered.parent, widget.rect.bottomRight()).x()
            assert widget.width >= widget.minimumSizeHint().width(), name
            assert right < DOCK - SCROLL_BAR, name


@pytest.mark.parametrize("ground", ["#efefef", "#353535"])
def test_the_verdict_can_be_read_in_the_light_and_in_the_dark_style(panel, engine, ground):
    application_ = QtWidgets.QApplication.instance()
    before, style = application_.palette(), QtGui.QPalette(QtGui.QColor(ground))
    application_.setPalette(style)
    try:
        engine()
        panel.ui.registerButton.click()
        wait_for(lambda: not panel._registration.running, 60)
        colour = re.search("color: (#.{6})", panel.ui.hintLabel.text)[1]
    finally:
        application_.setPalette(before)
    assert contrast(colour, ground) > 4  # the levels of WCAG are 3 for bold text and 4.5


def contrast(*colours):
    """Of two colours, as WCAG 2 has it: 1, the same, to 21."""

    def luminance(name):
        shares = np.array(QtGui.QColor(name).getRgbF()[:3])
        linear = np.where(shares < 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)

    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def test_the_tab_key_goes_from_top_to_bottom(panel):
    open_everything(panel)
    first = widget = panel.ui.inputsCollapsibleButton
    names = "inputs", "registration", "iterations", "evaluation", "advanced"
    sections = [getattr(panel.ui, name + "CollapsibleButton") for name in names]
    sections += [section.widget for section in panel._sections]
    reached = {}  # in the order of what is reached last in each
    while (widget := widget.nextInFocusChain()) is not first:
        stops = QtWidgets.QWidget.focusPolicy(widget) & QtCore.Qt.TabFocus
        for section in sections:
            if stops and section.isAncestorOf(widget):
                reached.pop(section, None)
                reached[section] = None
    places = [one.mapTo(panel.parent, one.rect.topLeft()).y() for one in reached]
    assert len(places) == 9 and places == sorted(places)


def test_the_table_shows_all_its_columns(large_font, registered):
    open_everything(registered)
    application.slicer.app.window.resize(DOCK, 1200)
    process_events(0.1)
    table = registered.ui.evaluationTable
    titles = [table.horizontalHeaderItem(i).text() for i in range(table.columnCount)]
    assert titles == ["Error (mm)", "Before", "After", "Snapped"]
    widths = [table.columnWidth(i) for i in range(table.columnCount)]
    assert sum(widths) <= table.viewport().width()
    measure = QtGui.QFontMetrics(table.font)
    assert all(measure.horizontalAdvance(t) < w for t, w in zip(titles, widths, strict=True))


def test_the_regions_table_shows_all_its_columns(large_font, registered):
    section = registered._following
    open_everything(registered)
    section.ventilationButton.click()
    wait_for(lambda: not section.running, 60)
    application.slicer.app.window.resize(DOCK, 1200)
    process_events(0.1)
    table = section.regionsTable
    assert [table.horizontalHeaderItem(i).text() for i in range(table.columnCount)][-1] == "low"
    widths = [table.columnWidth(i) for i in range(table.columnCount)]
    assert sum(widths) <= table.viewport().width() and widths[0] > 80


def test_buttons_that_act_on_the_view_have_icons(panel):
    names = ["previous", "play", "next", "blend", "sideBySide", "flicker", "checkerboard"]
    for name in [*names, "reveal", "grid", "arrows", "curve"]:
        icon = getattr(panel.ui, name + "Button").icon
        assert not icon.pixmap(16, 16).toImage().isNull(), name
        assert len({icon.pixmap(16, 16).toImage().pixel(x, 8) for x in range(16)}) > 1, name
