"""slicer.app, slicer.modules and a main window on a real MRML scene, without Slicer."""

import importlib.util
import os
import sys
import types
from pathlib import Path

import slicer
import slicer.util
from PySide6 import QtWidgets

from . import pythonqt, scripted, widgets

MODULE = Path(__file__).parents[3] / "L2ORegistration" / "L2ORegistration.py"
_LOGICS = {
    "Markups": "vtkSlicerMarkupsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Volumes": "vtkSlicerVolumesLogic",
}


class Application:
    """slicer.app, as far as this module and slicer.util ask."""

    applicationName = "Slicer"
    majorVersion, minorVersion = 5, 12
    documentationBaseUrl = "https://slicer.readthedocs.io/"

    def __init__(self):
        self.connected = {}
        self._modules = {}
        self.window = pythonqt.widgets["QMainWindow"]()
        self.window.setObjectName("qSlicerMainWindow")
        self.window.resize(460, 1100)

    def connect(self, signal, slot):
        self.connected.setdefault(signal, []).append(slot)

    def disconnect(self, signal, slot):
        if slot in self.connected.get(signal, []):
            self.connected[signal].remove(slot)

    def emit(self, signal):
        """What the desktop does at that moment."""
        for slot in self.connected.get(signal, []):
            slot()

    def moduleManager(self):  # noqa: N802 (Slicer's name)
        return self

    def module(self, name):
        return self._modules.get(name)

    def add_module(self, name, module):
        self._modules[name] = module
        setattr(slicer.modules, name.lower(), module)

    def testingEnabled(self):  # noqa: N802 (Slicer's name)
        return False

    def topLevelWidgets(self):  # noqa: N802 (Slicer's name)
        return [self.window]

    def layoutManager(self):  # noqa: N802 (Slicer's name)
        return types.SimpleNamespace(
            resetSliceViews=lambda: None,
            mrmlSliceLogics=lambda: types.SimpleNamespace(GetNumberOfItems=lambda: 0),
        )

    def moduleDocumentationUrl(self, name):  # noqa: N802 (Slicer's name)
        return self.documentationBaseUrl + name

    def translate(self, context, text):
        return text

    def __getattr__(self, name):  # clipboard, processEvents, setOverrideCursor, style, ...
        return getattr(QtWidgets.QApplication, name)


class qSlicerScriptedLoadableModule:  # noqa: N801 (Slicer's name)
    """A module as the module manager knows it; also what its Python class describes itself on."""

    def __init__(self, name, path):
        self.name, self.path = name, str(path)
        self.title, self.widget, self.icon = "", None, None

    def widgetRepresentation(self):  # noqa: N802 (Slicer's name)
        return self.widget


class qSlicerScriptedLoadableModuleWidget(widgets.qMRMLWidget):  # noqa: N801 (Slicer's name)
    """The panel that a scripted module fills."""

    isEntered = False

    def self(self):
        return self.python


def start() -> Application:
    """Make `import slicer, qt, ctk` work as in Slicer's Python; once per process."""
    if hasattr(slicer, "app"):
        return slicer.app
    QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    pythonqt.keep_singletons_alive()
    sys.modules["ctk"] = widgets.ctk_module()
    widgets.add_to_slicer()
    sys.modules["qt"] = pythonqt.module()
    slicer.qSlicerScriptedLoadableModule = qSlicerScriptedLoadableModule
    slicer.qSlicerScriptedLoadableModuleWidget = qSlicerScriptedLoadableModuleWidget
    slicer.modules = types.ModuleType("slicer.modules")
    slicer.app = Application()
    source = os.environ.get("SLICER_SOURCE")
    if source:
        slicer.__path__.append(os.path.join(source, "Base", "Python", "slicer"))
    else:
        for name, module in scripted.modules().items():
            sys.modules[name] = module
            setattr(slicer, name.rpartition(".")[2], module)
    new_scene()
    return slicer.app


def new_scene() -> None:
    """An empty scene with the logics and slice views that Slicer starts with."""
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    slicer.app.kept = [application]  # a logic that is let go of stops following the scene
    for name, cls in _LOGICS.items():
        logic = getattr(slicer, cls)()
        logic.SetMRMLScene(scene)
        logic.SetMRMLApplicationLogic(application)
        application.SetModuleLogic(name, logic)
        setattr(
            slicer.modules, name.lower(), types.SimpleNamespace(logic=lambda logic=logic: logic)
        )
        slicer.app.kept.append(logic)
    slicer.app.applicationLogic = lambda: application
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    for color in ("Red", "Yellow", "Green"):
        for cls in ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode"):
            node = scene.CreateNodeByClass(cls)
            node.SetSingletonTag(color)
            node.SetName(color)
            node.SetLayoutName(color)
            scene.AddNode(node)
            node.UnRegister(None)
    layout = slicer.vtkMRMLLayoutNode()
    layout.SetSingletonTag("vtkMRMLLayoutNode")
    scene.AddNode(layout)
    slicer.mrmlScene = scene


def load_module():
    """Import the module file as Slicer does at startup; returns its Python module."""
    if "L2ORegistration" in sys.modules:
        return sys.modules["L2ORegistration"]
    sys.path.insert(0, str(MODULE.parent))
    spec = importlib.util.spec_from_file_location("L2ORegistration", MODULE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["L2ORegistration"] = module
    spec.loader.exec_module(module)
    described = qSlicerScriptedLoadableModule("L2ORegistration", MODULE)
    slicer.app.add_module("L2ORegistration", described)
    described.python = module.L2ORegistration(described)
    return module


def open_panel():
    """What Slicer does when the user first selects the module; returns the module's widget."""
    module = load_module()
    panel = qSlicerScriptedLoadableModuleWidget()
    QtWidgets.QVBoxLayout(panel)
    panel.setMRMLScene(slicer.mrmlScene)
    described = slicer.app.module("L2ORegistration")
    described.widget = panel
    panel.python = module.L2ORegistrationWidget(panel)
    panel.python.setup()
    area = QtWidgets.QScrollArea()
    area.setWidgetResizable(True)
    area.setWidget(panel)
    slicer.app.window.setCentralWidget(area)
    slicer.app.window.show()
    panel.isEntered = True
    panel.python.enter()
    return panel.python


def close_panel(widget) -> None:
    """Leave the module and throw its panel away."""
    widget.parent.isEntered = False
    widget.exit()
    widget.cleanup()
    slicer.app.window.takeCentralWidget().deleteLater()
    QtWidgets.QApplication.processEvents()
