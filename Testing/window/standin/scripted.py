"""What a scripted module builds on, reduced to what this one uses: base classes and parameters."""

import enum
import json
import os
import types
import typing
import unittest

import slicer
import vtk


class ScriptedLoadableModule:
    """Describes the module on `parent`."""

    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__


class ScriptedLoadableModuleWidget:
    """Owns the panel `parent`."""

    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.parent = parent
        self.layout = parent.layout()

    def setup(self):
        """Nothing: the developer's section is left out."""

    def resourcePath(self, name):  # noqa: N802 (Slicer's name)
        """A file of the module's Resources folder."""
        folder = os.path.dirname(slicer.util.modulePath(self.moduleName))
        return os.path.join(folder, "Resources", name)


class ScriptedLoadableModuleLogic:
    """Owns the one parameter node of the module."""

    def __init__(self):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self):  # noqa: N802 (Slicer's name)
        """The module's vtkMRMLScriptedModuleNode, made at the first call."""
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetAttribute("ModuleName", self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """The module's self test."""

    def delayDisplay(self, message, msec=None):  # noqa: N802 (Slicer's name)
        """Nothing to wait for."""


class WithinRange:
    """Annotation: limits of a number."""

    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum


def parameterNodeWrapper(cls):  # noqa: N802 (Slicer's name)
    """Make the annotated members of a class properties that are stored in a MRML node."""
    members = typing.get_type_hints(cls, include_extras=True)
    for name, kind in members.items():
        setattr(cls, name, _parameter(name, kind, getattr(cls, name, None)))

    def __init__(self, node):
        self.parameterNode = node

    def connectGui(self, ui):  # noqa: N802 (Slicer's name)
        bound = {}
        for widget in vars(ui).values():
            name = widget.property("SlicerParameterName")
            if name:
                bound[name] = _Binding(self, name, widget, members[name])
        tag = self.AddObserver(
            vtk.vtkCommand.ModifiedEvent, lambda *_: [b.show() for b in bound.values()]
        )
        return tag, bound

    def disconnectGui(self, gui):  # noqa: N802 (Slicer's name)
        if gui:
            self.parameterNode.RemoveObserver(gui[0])
            for binding in gui[1].values():
                binding.close()

    cls.__init__ = __init__
    cls.connectGui, cls.disconnectGui = connectGui, disconnectGui
    for name in ("AddObserver", "RemoveObserver", "StartModify", "EndModify", "Modified"):
        setattr(cls, name, _forward(name))
    return cls


def _forward(name):
    return lambda self, *given: getattr(self.parameterNode, name)(*given)


def _plain(kind):
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def _is_node(kind):
    return all(isinstance(k, type) and issubclass(k, slicer.vtkMRMLNode) for k in _kinds(kind))


def _kinds(kind):
    return [k for k in typing.get_args(kind) or (kind,) if k is not type(None)]


def _parameter(name, kind, default):
    kind = _plain(kind)
    if _is_node(kind):
        return property(
            lambda self: self.parameterNode.GetNodeReference(name),
            lambda self, node: self.parameterNode.SetNodeReferenceID(
                name, node.GetID() if node else None
            ),
        )
    default = kind() if default is None else default

    def read(self):
        text = self.parameterNode.GetParameter(name)
        if not text:
            return default
        return kind[text] if issubclass(kind, enum.Enum) else kind(json.loads(text))

    def write(self, value):
        text = value.name if isinstance(value, enum.Enum) else json.dumps(value)
        self.parameterNode.SetParameter(name, text)

    return property(read, write)


class _Binding:
    """Keeps one widget and one parameter equal."""

    def __init__(self, owner, name, widget, kind):
        self.owner, self.name, self.widget = owner, name, widget
        self.kind = _plain(kind)
        self.busy = False
        types_ = {cls.__name__ for cls in type(widget).__mro__}
        if _is_node(self.kind):
            widget.nodeTypes = [k.__name__ for k in _kinds(self.kind)]
            self.signal, self.get, self.set = (
                widget.currentNodeChanged,
                widget.currentNode,
                widget.setCurrentNode,
            )
        elif "QCheckBox" in types_:
            self.signal, self.get, self.set = widget.toggled, widget.isChecked, widget.setChecked
        elif "QComboBox" in types_:
            choices = list(self.kind)
            widget.clear()
            for choice in choices:
                widget.addItem(choice.label())
            self.signal = widget.currentIndexChanged
            self.get = lambda: choices[widget.currentIndex]
            self.set = lambda value: widget.setCurrentIndex(choices.index(value))
        elif "QSpinBox" in types_:
            limits = typing.get_args(kind)[1]
            widget.setRange(limits.minimum, limits.maximum)
            self.signal = widget.valueChanged
            self.get, self.set = lambda: widget.value, widget.setValue
        else:
            raise TypeError(f"The stand-in cannot bind {name} to a {type(widget).__name__}.")
        self.show()
        self.signal.connect(self.store)

    def show(self):
        self.busy = True
        self.set(getattr(self.owner, self.name))
        self.busy = False

    def store(self, *_):
        if not self.busy:
            setattr(self.owner, self.name, self.get())

    def close(self):
        self.signal.disconnect(self.store)


def modules() -> dict[str, types.ModuleType]:
    """What is to be imported as slicer.ScriptedLoadableModule, .parameterNodeWrapper and .i18n."""
    base = types.ModuleType("slicer.ScriptedLoadableModule")
    for cls in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    ):
        setattr(base, cls.__name__, cls)
    wrapper = types.ModuleType("slicer.parameterNodeWrapper")
    wrapper.parameterNodeWrapper, wrapper.WithinRange = parameterNodeWrapper, WithinRange
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr = lambda text: text
    i18n.translate = lambda context, text: text
    return {module.__name__: module for module in (base, wrapper, i18n)}
