"""The ctk and qMRML widgets that the panel uses, as plain Qt widgets on a real MRML scene."""

import types

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from .pythonqt import widgets

_HEADER = 24  # pixels
Property, Signal, Slot = QtCore.Property, QtCore.Signal, QtCore.Slot
QWidget = widgets["QWidget"]


def _value(name, kind, default):
    """A Qt property that only remembers its value."""
    key = "_" + name

    def read(self):
        return self.__dict__.get(key, default)

    def write(self, value):
        self.__dict__[key] = value
        self.refresh()

    return Property(kind, read, write)


class ctkCollapsibleButton(QWidget):  # noqa: N801 (ctk's name)
    """A titled frame that folds its contents away (clips them: they do not know)."""

    contentsCollapsed = Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._collapsed = False
        self._header = QtWidgets.QToolButton(self)
        self._header.setToolButtonStyle(QtCore.Qt.ToolButtonTextBesideIcon)
        self._header.setStyleSheet("QToolButton {text-align: left; font-weight: bold;}")
        self._header.clicked.connect(lambda: self._set(not self._collapsed))
        self.setContentsMargins(0, _HEADER, 0, 0)
        self._set(False)

    def _set(self, collapsed):
        changed = collapsed != self._collapsed
        self._collapsed = collapsed
        self._header.setArrowType(QtCore.Qt.RightArrow if collapsed else QtCore.Qt.DownArrow)
        self.setMaximumHeight(_HEADER if collapsed else 16777215)
        if changed:
            self.contentsCollapsed.emit(collapsed)

    def resizeEvent(self, event):  # noqa: N802 (Qt's name)
        self._header.setGeometry(0, 0, self.width, _HEADER)

    collapsed = Property(bool, lambda self: self._collapsed, _set)
    text = Property(
        str, lambda self: self._header.text(), lambda self, text: self._header.setText(text)
    )


class ctkSliderWidget(QWidget):  # noqa: N801 (ctk's name)
    """A slider and a spin box for one float."""

    valueChanged = Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._spin = QtWidgets.QDoubleSpinBox()
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider)
        row.addWidget(self._spin)
        self._slider.valueChanged.connect(lambda n: self._spin.setValue(n * self.singleStep))
        self._spin.valueChanged.connect(self._changed)

    def _changed(self, value):
        self._slider.blockSignals(True)
        self._slider.setValue(round(value / self.singleStep))
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)

    def _limit(self, write, value):
        write(value)
        self._slider.setRange(
            round(self.minimum / self.singleStep), round(self.maximum / self.singleStep)
        )

    def setValue(self, value):  # noqa: N802 (ctk's name)
        self._spin.setValue(value)

    value = Property(float, lambda self: self._spin.value(), setValue)
    minimum = Property(
        float,
        lambda self: self._spin.minimum(),
        lambda self, value: self._limit(self._spin.setMinimum, value),
    )
    maximum = Property(
        float,
        lambda self: self._spin.maximum(),
        lambda self, value: self._limit(self._spin.setMaximum, value),
    )
    singleStep = Property(
        float,
        lambda self: self._spin.singleStep(),
        lambda self, value: self._limit(self._spin.setSingleStep, value),
    )
    decimals = Property(
        int, lambda self: self._spin.decimals(), lambda self, n: self._spin.setDecimals(n)
    )


class ctkMessageBox(widgets["QMessageBox"]):  # noqa: N801 (ctk's name)
    """A message box that a test answers: shown for a moment, then `answer` presses a button."""

    shown: list = []
    answer = staticmethod(lambda box: QtWidgets.QMessageBox.Ok)

    def exec_(self):
        type(self).shown.append(self.text)
        self.show()
        QtWidgets.QApplication.processEvents()
        button = type(self).answer(self)
        self.hide()
        return button


class _SceneWidget(QWidget):
    """What follows a scene; on every change of its nodes `refresh` is called, once, soon after."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None
        self._tags = []

    def mrmlScene(self):  # noqa: N802 (Slicer's name)
        return self._scene

    def setMRMLScene(self, scene):  # noqa: N802 (Slicer's name)
        for observed, tag in self._tags:
            observed.RemoveObserver(tag)
        self._scene = scene
        events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent)
        self._tags = [(scene, scene.AddObserver(event, self._onScene)) for event in events]
        self.refresh()

    def _onScene(self, *_):
        self.refresh()

    def refresh(self):
        pass


class qMRMLWidget(_SceneWidget):  # noqa: N801 (Slicer's name)
    """Hands its scene to the widgets that the .ui file connects to it."""

    sceneReceivers = ()

    def setMRMLScene(self, scene):  # noqa: N802 (Slicer's name)
        super().setMRMLScene(scene)
        for receiver in self.sceneReceivers:
            receiver.setMRMLScene(scene)


class qMRMLNodeComboBox(_SceneWidget):  # noqa: N801 (Slicer's name)
    """A drop-down list of the nodes of some classes."""

    currentNodeChanged = Signal(object)
    nodeAdded = Signal(object)

    nodeTypes = _value("nodeTypes", "QStringList", [])
    showChildNodeTypes = _value("showChildNodeTypes", bool, True)
    showHidden = _value("showHidden", bool, False)
    noneEnabled = _value("noneEnabled", bool, False)
    addEnabled = _value("addEnabled", bool, True)
    removeEnabled = _value("removeEnabled", bool, True)
    renameEnabled = _value("renameEnabled", bool, False)
    editEnabled = _value("editEnabled", bool, False)
    selectNodeUponCreation = _value("selectNodeUponCreation", bool, True)
    noneDisplay = _value("noneDisplay", str, "None")
    baseName = _value("baseName", str, "")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._id = ""
        self.combo = QtWidgets.QComboBox()
        self.combo.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.combo)
        self.combo.activated.connect(self._onActivated)

    def nodes(self):
        """The nodes offered, in scene order."""
        if self._scene is None:
            return []
        found = []
        for index in range(self._scene.GetNumberOfNodes()):
            node = self._scene.GetNthNode(index)
            fits = any(
                node.IsA(kind) if self.showChildNodeTypes else node.GetClassName() == kind
                for kind in self.nodeTypes or []
            )
            if fits and (self.showHidden or not node.GetHideFromEditors()):
                found.append(node)
        return found

    def refresh(self):
        if "combo" not in self.__dict__:
            return
        nodes = self.nodes()
        self.combo.blockSignals(True)
        self.combo.clear()
        if self.noneEnabled:
            self.combo.addItem(self.noneDisplay, "")
        for node in nodes:
            self.combo.addItem(node.GetName(), node.GetID())
        if self.addEnabled and self._scene is not None:
            self.combo.addItem("Create new " + (self.baseName or "node"), "new")
        self.combo.setCurrentIndex(self.combo.findData(self._id))
        self.combo.blockSignals(False)
        if self._id and self._id not in [node.GetID() for node in nodes]:
            self.setCurrentNodeID("")

    def _onActivated(self, index):
        data = self.combo.itemData(index)
        if data == "new":
            name = self._scene.GenerateUniqueName(self.baseName or "Node")
            node = self._scene.AddNewNodeByClass(self.nodeTypes[0], name)
            self.nodeAdded.emit(node)
            data = node.GetID()
        self.setCurrentNodeID(data)

    def currentNode(self):
        return self._scene.GetNodeByID(self._id) if self._scene and self._id else None

    def setCurrentNode(self, node):  # noqa: N802 (Slicer's name)
        self.setCurrentNodeID(node.GetID() if node else "")

    def setCurrentNodeID(self, identifier):  # noqa: N802 (Slicer's name)
        if identifier not in [node.GetID() for node in self.nodes()]:
            identifier = ""
        self.combo.setCurrentIndex(self.combo.findData(identifier))
        if identifier != self._id:
            self._id = identifier
            self.currentNodeChanged.emit(self.currentNode())

    currentNodeID = Property(str, lambda self: self._id, setCurrentNodeID)


class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):  # noqa: N801 (Slicer's name)
    """A drop-down list of nodes to tick."""

    checkedNodesChanged = Signal()

    def checkedNodes(self):  # noqa: N802 (Slicer's name)
        model = self.combo.model()
        rows = [model.item(row) for row in range(model.rowCount())]
        ticked = [row.data(QtCore.Qt.UserRole) for row in rows if row.checkState().value]
        return [self._scene.GetNodeByID(identifier) for identifier in ticked]

    def setCheckState(self, node, state):  # noqa: N802 (Slicer's name)
        row = self.combo.findData(node.GetID())
        self.combo.model().item(row).setCheckState(QtCore.Qt.CheckState(state))
        self.checkedNodesChanged.emit()

    def refresh(self):
        super().refresh()
        model = self.combo.model() if "combo" in self.__dict__ else None
        for row in range(model.rowCount() if model else 0):
            model.item(row).setCheckable(True)


class qMRMLSegmentSelectorWidget(_SceneWidget):  # noqa: N801 (Slicer's name)
    """A drop-down list of the segments of one segmentation; its own node list is always hidden."""

    currentSegmentChanged = Signal(str)
    noneEnabled = _value("noneEnabled", bool, False)
    segmentationNodeSelectorVisible = _value("segmentationNodeSelectorVisible", bool, True)
    horizontalLayout = _value("horizontalLayout", bool, False)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = None
        self.combo = QtWidgets.QComboBox()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QtWidgets.QLabel("Segment:"))
        row.addWidget(self.combo, 1)
        self.combo.currentIndexChanged.connect(
            lambda: self.currentSegmentChanged.emit(self.currentSegmentID())
        )

    def currentNode(self):
        return self._node

    def setCurrentNode(self, node):  # noqa: N802 (Slicer's name)
        if node is not self._node:
            self._node = node if node and node.IsA("vtkMRMLSegmentationNode") else None
            self.refresh()

    def refresh(self):
        if "combo" not in self.__dict__:
            return
        self.combo.blockSignals(True)
        self.combo.clear()
        if self._node is not None:
            if self.noneEnabled:
                self.combo.addItem("None", "")
            segmentation = self._node.GetSegmentation()
            for identifier in segmentation.GetSegmentIDs():
                self.combo.addItem(segmentation.GetSegment(identifier).GetName(), identifier)
        self.combo.blockSignals(False)
        self.currentSegmentChanged.emit(self.currentSegmentID())

    def currentSegmentID(self):  # noqa: N802 (Slicer's name)
        return self.combo.currentData() or ""

    def setCurrentSegmentID(self, identifier):  # noqa: N802 (Slicer's name)
        self.combo.setCurrentIndex(self.combo.findData(identifier))


class qMRMLTableView(widgets["QTableWidget"]):  # noqa: N801 (Slicer's name)
    """Shows a vtkMRMLTableNode and follows it."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = self._tag = None

    def setMRMLScene(self, scene):  # noqa: N802 (Slicer's name)
        pass

    def mrmlTableNode(self):  # noqa: N802 (Slicer's name)
        return self._node

    def setMRMLTableNode(self, node):  # noqa: N802 (Slicer's name)
        if self._node is not None:
            self._node.RemoveObserver(self._tag)
        self._node = node
        if node is not None:
            self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._show)
        self._show()

    def _show(self, *_):
        table = self._node.GetTable() if self._node else vtk.vtkTable()
        self.setRowCount(table.GetNumberOfRows())
        self.setColumnCount(table.GetNumberOfColumns())
        for column in range(table.GetNumberOfColumns()):
            titled = self._node.GetUseColumnTitleAsColumnHeader()
            name = table.GetColumnName(column) if titled else chr(ord("A") + column)
            self.setHorizontalHeaderItem(column, QtWidgets.QTableWidgetItem(name))
            for row in range(table.GetNumberOfRows()):
                text = table.GetValue(row, column).ToString()
                self.setItem(row, column, QtWidgets.QTableWidgetItem(text))
        self.resizeColumnsToContents()


def _placeholders(module, names):
    for name in names.split():
        setattr(module, name, type(name, (), {}))


def ctk_module() -> types.ModuleType:
    """The module to be imported as `ctk`; classes that this module does not use are empty."""
    ctk = types.ModuleType("ctk")
    for cls in (ctkCollapsibleButton, ctkSliderWidget, ctkMessageBox):
        setattr(ctk, cls.__name__, cls)
        widgets[cls.__name__] = cls
    _placeholders(
        ctk,
        "ctkCheckBox ctkCheckablePushButton ctkColorPickerButton ctkComboBox ctkDirectoryButton "
        "ctkDoubleRangeSlider ctkDoubleSlider ctkDoubleSpinBox ctkPathLineEdit ctkRangeWidget",
    )
    return ctk


def add_to_slicer() -> None:
    """Make the qMRML widgets available as slicer.qMRML... and to .ui files."""
    for cls in (
        qMRMLWidget,
        qMRMLNodeComboBox,
        qMRMLCheckableNodeComboBox,
        qMRMLSegmentSelectorWidget,
        qMRMLTableView,
    ):
        setattr(slicer, cls.__name__, cls)
        widgets[cls.__name__] = cls
    _placeholders(slicer, "qMRMLSliderWidget qMRMLSpinBox qMRMLRangeWidget qSlicerWidget")
