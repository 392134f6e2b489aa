"""The panel's section for a follow-up: what is marked in one scan is found in the other."""

import qt
import slicer
from slicer.i18n import tr as _

from ..scene import display, outputs, transforms, volumes
from ..scene.following import images_of
from . import widgets
from .background import Background
from .messages import errors_shown


class FollowUpPanel:
    """Finds points in the other scan and shows both places; measures how a segment changes."""

    def __init__(self, torch, lender, session):
        """torch: a requirements.PyTorch; lender: a lock.Lender; session(): the Session, None for
        none that is finished."""
        self._session = session
        self._background = Background(torch, lender, self.refresh)
        self._pairs = None  # markups nodes (fixed, moving) of the table's rows
        self.widget, form = widgets.section(_("Follow-up"))
        self.pointsSelector = widgets.selector(
            ["vtkMRMLMarkupsFiducialNode"],
            _("Points, such as a nodule, marked in one of the scans"),
        )
        form.addRow(_("Points:"), self.pointsSelector)
        self.markedInBox = qt.QComboBox()
        self.markedInBox.addItem(_("fixed volume"), "fixed")
        self.markedInBox.addItem(_("moving volume"), "moving")
        self.markedInBox.setToolTip(_("The scan that they are marked in"))
        widgets.narrow(self.markedInBox)
        form.addRow(_("Marked in:"), self.markedInBox)
        self.findButton = widgets.button(
            _("Find in the other scan"),
            _("Add the points of the other scan that belong to them, and show both places"),
        )
        form.addRow(self.findButton)
        self.pointsLabel = widgets.label()
        form.addRow(self.pointsLabel)
        self.pointsTable = qt.QTableWidget()
        self.pointsTable.setColumnCount(3)
        self.pointsTable.setHorizontalHeaderLabels([_("Point"), _("Moves by"), _("Uncertain by")])
        self.pointsTable.setEditTriggers(qt.QTableWidget.NoEditTriggers)
        self.pointsTable.setSelectionBehavior(qt.QTableWidget.SelectRows)
        self.pointsTable.setToolTip(_("Choose a line: both views jump to that point"))
        widgets.share_width(self.pointsTable)
        self.pointsTable.setVisible(False)
        form.addRow(self.pointsTable)
        self._segments = {}
        for role, text in (("fixed", _("Fixed segment:")), ("moving", _("Moving segment:"))):
            form.addRow(text, self._segment_chooser(role))
        self.changeButton = widgets.button(
            _("Volume change of the segment"),
            _("Of a segment drawn in one scan, by the deformation; drawn in both, its growth, too"),
        )
        form.addRow(self.changeButton)
        self.changeLabel = widgets.label()
        form.addRow(self.changeLabel)
        self.findButton.clicked.connect(lambda *_: self.find())
        self.pointsTable.itemSelectionChanged.connect(self._jump)
        self.changeButton.clicked.connect(lambda *_: self.measure())
        self.pointsSelector.currentNodeChanged.connect(lambda *_: self.refresh())
        self.refresh()

    @property
    def running(self):
        """Whether something is being computed."""
        return self._background.running

    def find(self):
        """Find the points in the other scan."""
        markups = self.pointsSelector.currentNode()
        marked_in = self.markedInBox.itemData(self.markedInBox.currentIndex)
        transform = self._session().history.transform
        self._background.start(
            lambda: outputs.partners_task(transform, markups, marked_in),
            lambda found: self._found(transform, markups, marked_in, *found),
        )

    def measure(self):
        """The volume change of the chosen segments."""
        chosen = []
        for selector, segment in self._segments.values():
            node = selector.currentNode()
            name = segment.currentSegmentID() if node is not None else ""
            chosen.append((node, name) if name else node)
        transform = self._session().history.transform
        nodes = [selector.currentNode() for selector, _segment in self._segments.values()]
        widgets.say(self.changeLabel, volumes.standstill(*nodes))
        self._background.start(
            lambda: outputs.change_task(transform, *chosen),
            lambda found: widgets.say(self.changeLabel, found.sentence()),
        )

    def abandon(self):
        """Another result is shown, or the scene goes away."""
        self._background.abandon()
        self._pairs = None
        self.pointsTable.setRowCount(0)
        self.pointsTable.setVisible(False)
        for label in (self.pointsLabel, self.changeLabel):
            widgets.say(label, "")
        self.refresh()

    def refresh(self):
        """Bring the buttons up to date."""
        possible = self._session() is not None and not self.running
        self.findButton.setEnabled(possible and self.pointsSelector.currentNode() is not None)
        chosen = any(one.currentNode() is not None for one, _segment in self._segments.values())
        self.changeButton.setEnabled(possible and chosen)

    def _segment_chooser(self, role):
        tip = _("A segment drawn in the {role} scan").format(role=_(role))
        selector = widgets.selector(["vtkMRMLSegmentationNode"], tip)
        segment = slicer.qMRMLSegmentSelectorWidget()
        segment.segmentationNodeSelectorVisible = False
        segment.setMRMLScene(slicer.mrmlScene)
        widgets.narrow(segment)
        segment.setVisible(False)

        def follow(*_):
            segment.setCurrentNode(selector.currentNode())
            segment.setVisible(selector.currentNode() is not None)
            self.refresh()

        selector.currentNodeChanged.connect(follow)
        self._segments[role] = selector, segment
        both = qt.QWidget()
        column = qt.QVBoxLayout(both)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(selector)
        column.addWidget(segment)
        return both

    def _found(self, transform, markups, marked_in, made, moved, apart):
        self._pairs = (markups, made) if marked_in == "fixed" else (made, markups)
        fixed, moving = outputs.ends(transform, *self._pairs)
        warnings = moved.warnings()
        widgets.say(self.pointsLabel, " ".join(warnings))
        table = self.pointsTable
        table.setRowCount(len(fixed))
        for row in range(len(fixed)):
            way = float(((moving[row] - fixed[row]) ** 2).sum() ** 0.5)
            known = apart is not None and apart[row] == apart[row]  # NaN is not known
            sure = f"{apart[row]:.1f} mm" if known else _("not known")
            for column, text in enumerate(
                (made.GetNthControlPointLabel(row), f"{way:.1f} mm", sure)
            ):
                table.setItem(row, column, qt.QTableWidgetItem(text))
        table.setVisible(True)
        table.setMinimumHeight(120)
        display.show_side_by_side(*images_of(transform), linked=False)
        slicer.util.resetSliceViews()
        table.clearSelection()
        table.selectRow(0)

    def _jump(self):
        """Both views go to the point of the chosen line, each to its own place."""
        rows = {index.row() for index in self.pointsTable.selectedIndexes()}
        there = self._pairs is not None and all(n.GetScene() is not None for n in self._pairs)
        session = self._session()
        if not rows or not there or session is None:
            return
        row = min(rows)
        transform = session.history.transform
        ends = None
        with errors_shown(_("The point could not be shown.")):
            ends = outputs.ends(transform, *self._pairs)
        if ends is None:
            return
        moving = transforms.roles(transform)[1]
        if moving is not None and transforms.is_under(moving, transform):  # it is shown warped
            ends = ends[0], ends[0]
        for name, points in zip(("Red", "Yellow"), ends, strict=True):
            view = display.slice_view(slicer.mrmlScene, name)
            if view is not None and row < len(points):
                view.JumpSliceByCentering(*(float(x) for x in points[row]))
