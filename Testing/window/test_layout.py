"""The panel in a narrow dock: everything is shown, nothing is cut off, buttons have icons."""

import pytest
from fixtures import process_events, wait_for
from PySide6 import QtGui, QtWidgets
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
