"""PySide6 dressed as PythonQt's `qt`: properties read and write as attributes, .ui files load."""

import ctypes
import sys
import traceback
import types
import xml.etree.ElementTree as xml

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

# Also virtual C++ methods, which Qt would call and find a value instead.
_VIRTUAL = {"sizeHint", "minimumSizeHint"}
_WIDGETS = """QWidget QLabel QPushButton QToolButton QCheckBox QComboBox QLineEdit QTextEdit QSlider
QSpinBox QDoubleSpinBox QProgressBar QFrame QGroupBox QTableWidget QMenu QMessageBox QMainWindow
QDockWidget QScrollArea""".split()


def properties_as_attributes(cls):
    """A subclass of a QObject class with the same name, whose Qt properties are attributes."""
    members = {"className": lambda self: cls.__name__}
    meta = cls.staticMetaObject
    for index in range(meta.propertyCount()):
        name = meta.property(index).name()
        if name not in _VIRTUAL:
            members[name] = _attribute(name)
    members["name"] = _attribute("objectName")
    return type(cls.__name__, (cls,), members)


def _attribute(name):
    return property(
        lambda self: self.property(name), lambda self, value: self.setProperty(name, value)
    )


widgets = {name: properties_as_attributes(getattr(QtWidgets, name)) for name in _WIDGETS}


class UiLoader(QtUiTools.QUiLoader):
    """Loads a .ui file with the classes of `widgets`, and obeys its <connections> to the scene.

    Only widgets that the file connects to the top widget's mrmlSceneChanged get the scene, as in
    Slicer, so that a forgotten connection shows up as an empty selector.
    """

    def createWidget(self, className, parent=None, name=""):  # noqa: N802, N803 (Qt's names)
        try:
            widget = widgets[className](parent) if className in widgets else None
        except Exception:  # Qt would crash on an exception in a virtual method
            traceback.print_exc()
            sys.exit(f"The stand-in cannot make a {className}.")
        if widget is None:
            return super().createWidget(className, parent, name)
        widget.setObjectName(name)
        return widget

    def load(self, device, parent=None):
        tree = xml.fromstring(bytes(device.readAll()))
        connections = tree.find("connections")
        receivers = []
        if connections is not None:
            for connection in connections:
                said = {child.tag: child.text for child in connection}
                if (
                    said["signal"] == "mrmlSceneChanged(vtkMRMLScene*)"
                    and said["slot"] == "setMRMLScene(vtkMRMLScene*)"
                    and said["sender"] == tree.find("widget").get("name")
                ):
                    receivers.append(said["receiver"])
            tree.remove(connections)
        buffer = QtCore.QBuffer()
        buffer.setData(xml.tostring(tree))
        buffer.open(QtCore.QIODevice.ReadOnly)
        widget = super().load(buffer, parent)
        widget.sceneReceivers = [widget.findChild(QtWidgets.QWidget, name) for name in receivers]
        return widget


def keep_singletons_alive() -> None:
    """PySide6 6.12.0 gives away None, True and False as if they were immortal.

    They are since Python 3.12; before, Python aborts some thousand signals later. So here they
    become nearly so, by raising their reference counts, which is what an object begins with.
    """
    if sys.version_info < (3, 12):
        for value in (None, True, False):
            ctypes.c_ssize_t.from_address(id(value)).value += 1 << 40


def module() -> types.ModuleType:
    """The module to be imported as `qt`."""
    qt = types.ModuleType("qt")
    for source in (QtCore, QtGui, QtWidgets):
        for name in dir(source):
            if name.startswith("Q"):
                setattr(qt, name, getattr(source, name))
    for name, cls in widgets.items():
        if name.startswith("Q"):
            setattr(qt, name, cls)
    qt.QUiLoader = UiLoader
    return qt
