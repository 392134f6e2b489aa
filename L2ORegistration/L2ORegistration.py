"""L2O Registration in 3D Slicer: module, parameters, panel, console API and self test."""

import enum
import os
import sys
import unittest
from typing import Annotated, Union

import qt
import slicer
import vtk
from L2ORegistrationLib import job
from L2ORegistrationLib.engine.catalogue import DEFAULT, METHODS, OLD_NAMES, STARTS
from L2ORegistrationLib.engine.packaged import has_weights
from L2ORegistrationLib.panel.advanced import AdvancedPanel
from L2ORegistrationLib.panel.correction import CorrectionPanel
from L2ORegistrationLib.panel.evaluation import EvaluationPanel
from L2ORegistrationLib.panel.following import FollowingPanel
from L2ORegistrationLib.panel.followup import FollowUpPanel
from L2ORegistrationLib.panel.inputs import InputsPanel, bind
from L2ORegistrationLib.panel.iterations import IterationsPanel
from L2ORegistrationLib.panel.lock import Lender
from L2ORegistrationLib.panel.registration import RegistrationPanel
from L2ORegistrationLib.panel.requirements import PyTorch
from L2ORegistrationLib.panel.sequence import SequencePanel
from L2ORegistrationLib.panel.session import ShownSession
from L2ORegistrationLib.scene.logic import SceneLogic
from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTransformNode,
)
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

_PAPER = (
    "Learning iterative optimisation for deformable image registration of lung CT with recurrent "
    "convolutional networks"
)
# An older Slicer still has to load this file, to say that it is too old: hence no A | B here.
_Mask = Union[vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode, None]  # noqa: UP007
_OLDEST_PYTHON = (3, 10)  # Slicer 5.10 has 3.12, 5.8 has 3.9
_HOMEPAGE = "https://github.com/L2ORegistration/SlicerL2ORegistration"


def tooOld():
    """What is wrong with this Slicer, in a sentence; "" where it is new enough."""
    if sys.version_info >= _OLDEST_PYTHON:
        return ""
    return _(
        "L2O Registration needs Slicer 5.10 or later, this is {major}.{minor}: install a newer one."
    ).format(major=slicer.app.majorVersion, minor=slicer.app.minorVersion)


class L2ORegistration(ScriptedLoadableModule):
    """What Slicer lists: title, category, help, acknowledgement; offers the sample data."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("L2O Registration")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        parent.dependencies = []
        parent.contributors = ["The SlicerL2ORegistration contributors"]
        parent.helpText = _(
            "<p>Aligns two CT volumes of the same lungs, such as inspiration and expiration, with "
            "a deformation that is found in a few iterations, by classical or learned steps. "
            "Each of them is kept: watch it converge, then step back and forth.</p>"
            "<p><b>Three clicks:</b> load <i>Breathing phantom</i> from the Sample Data module, "
            "open this module, press <i>Register</i>.</p>"
            "<p>The output transform leads from the fixed to the moving volume: whatever belongs "
            "to the moving volume and is put under it lines up with the fixed one. Hover over any "
            "control to read what it does. From the Python console:</p>"
            "<pre>slicer.util.getModuleLogic('L2ORegistration').register(fixed, moving)</pre>"
            "<p>For Slicer 5.10 and later. For research; not a medical device. {link}</p>"
        ).format(link=f'<a href="{_HOMEPAGE}">' + _("Documentation and tutorial") + "</a>")
        parent.acknowledgementText = _(
            "<p>This module builds on the learned optimiser of <i>{paper}</i>. Please cite that "
            "paper and this extension if they help your work; how is in the file CITATION.cff of "
            "the extension's repository.</p>"
        ).format(paper=_PAPER)
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the breathing phantom in the Sample Data module; it is made here, without a network."""
    import SampleData

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # Slicer 5.12 and later
        logic.registerCustomSampleDataCategory("L2ORegistration", title=_("L2O Registration"))
    icons = os.path.join(os.path.dirname(__file__), "Resources", "Icons")
    for name, load in (
        ("Breathing phantom", loadBreathingPhantom),
        ("Breathing phantom 4DCT", loadBreathingSequence),
    ):
        logic.registerCustomSampleDataSource(
            category="L2ORegistration",
            sampleName=name,
            thumbnailFileName=os.path.join(icons, "BreathingPhantom.png"),
            uris="",
            fileNames="",
            nodeNames="",
            customDownloader=load,
        )


def loadBreathingPhantom(source=None):
    """Add the phantom's two volumes and landmark lists to the scene; returns these nodes."""
    from L2ORegistrationLib.scene import sample

    with slicer.util.WaitCursor():
        nodes = sample.add_phantom_pair()
    slicer.util.setSliceViewerLayers(background=nodes["fixed"], foreground=None, fit=True)
    return list(nodes.values())


def loadBreathingSequence(source=None):
    """Add the phantom's ten phases and the landmarks of the first; returns these nodes."""
    from L2ORegistrationLib.scene import breathing_sample
    from L2ORegistrationLib.scene.browsers import proxy_of

    with slicer.util.WaitCursor():
        nodes = breathing_sample.add_breathing_sequence()
    image = proxy_of(nodes["browser"])
    slicer.util.setSliceViewerLayers(background=image, foreground=None, fit=True)
    return [image, nodes["landmarks"]]


class _Choice(enum.Enum):
    """A choice named as the engine names it; its value is the text in the panel's list."""

    def label(self):
        return _(self.value)


def _marked(titles):
    """The titles; of what has no weights here with a remark, for Register will refuse it."""
    return {
        name: title if has_weights(name) else f"{title} (not trained)"
        for name, title in titles.items()
    }


# All are in the lists, so that a scene that names one of them can be opened everywhere.
Method = _Choice("Method", _marked({name: method.title for name, method in METHODS.items()}))
Start = _Choice("Start", _marked(STARTS))


@parameterNodeWrapper
class L2ORegistrationParameterNode:
    """What the user chose; saved with the scene. An empty node or text: automatic, or not wanted.

    A mask is a label map, or a segmentation of which fixedSegment or movingSegment is the ID of a
    segment (empty: all); device and model are names that the engine knows; iterations are per
    level (0: the method's own).
    """

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    fixedMask: _Mask
    movingMask: _Mask
    fixedSegment: str = ""
    movingSegment: str = ""
    fixedLandmarks: vtkMRMLMarkupsFiducialNode
    movingLandmarks: vtkMRMLMarkupsFiducialNode
    initialTransform: vtkMRMLTransformNode
    outputTransform: vtkMRMLTransformNode
    outputVolume: vtkMRMLScalarVolumeNode
    outputJacobian: vtkMRMLScalarVolumeNode
    method: Method = Method[DEFAULT]
    start: Start = Start["search"]
    iterations: Annotated[int, WithinRange(0, 200)] = 0
    model: str = ""
    device: str = "auto"


class L2ORegistrationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: puts its sections together and tells them what Slicer tells it."""

    def __init__(self, parent=None):
        self.logic = None
        self._parameterNode = None
        self._unbind = None
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    def setup(self):
        """Build the panel, once, when the user opens the module for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        if tooOld():
            label = qt.QLabel(tooOld())
            label.wordWrap = True
            self.layout.addWidget(label)
            self.layout.addStretch(1)
            return
        panel = slicer.util.loadUI(self.resourcePath("UI/L2ORegistration.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = L2ORegistrationLogic()
        self._torch, self._lender = PyTorch(), Lender()
        self._buildSections()
        layout = panel.layout()
        for section in self._sections:
            layout.insertWidget(layout.count() - 2, section.widget)  # above Advanced and a spacer
        self._advanced.come_after(self._sequence.button)
        self.ui.copyAsPythonButton.clicked.connect(lambda *_: self.onCopyAsPython())

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneChanged)
        self.addObserver(scene, scene.EndBatchProcessEvent, self.onSceneChanged)
        self.addObserver(scene, scene.NodeAddedEvent, self.onNodeAdded)
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self.onNodeAboutToBeRemoved)
        self.initializeParameterNode()

    def _buildSections(self):
        """Each gets the few functions of the others that it needs."""

        def parameters():
            return self._parameterNode

        def registering():
            return self._registration.running

        ui, logic, worker = self.ui, self.logic, (self._torch, self._lender)
        self._inputs = inputs = InputsPanel(
            ui, parameters, registering, lambda: self._shown.points_moved()
        )
        self._shown = shown = ShownSession(logic, parameters, inputs.settings, registering)
        self._advanced = AdvancedPanel(ui, logic, *worker, parameters)
        self._evaluation = EvaluationPanel(ui, logic, *worker, shown.landmarks, shown.lungs)
        icons = self.resourcePath("Icons")
        self._iterations = iterations = IterationsPanel(
            ui, logic, *worker, icons, shown.evaluate_soon, inputs.outputs, registering
        )
        self._registration = registration = RegistrationPanel(
            ui,
            logic,
            *worker,
            inputs.settings,
            started=shown.refresh,
            began=shown.began,
            stepped=iterations.refresh,
            ended=shown.ended,
        )
        self._correction = CorrectionPanel(
            lambda: shown.session, shown.settings, registration, iterations.show_whole, shown.undone
        )
        self._following = FollowingPanel(*worker, shown.finished, shown.lungs)
        self._followUp = FollowUpPanel(*worker, shown.finished)
        self._sequence = SequencePanel(*worker, self._advanced.device)
        ofResult = self._correction, self._following, self._followUp
        self._sections = *ofResult, self._sequence
        shown.lead(registration, iterations, self._evaluation, self._sections, ofResult)

    def cleanup(self):
        """The panel is about to be destroyed, perhaps because Slicer quits: all must rest."""
        if self.logic is None:  # this Slicer is too old
            return
        self.onSceneStartClose()
        self.removeObservers()
        self._advanced.stop()
        self._evaluation.stop()
        job.stop()
        self._lender.stop()

    def enter(self):
        """The user opens the module."""
        if self.logic is None:
            return
        self.initializeParameterNode()
        self._registration.enter()
        self._torch.load()
        self._lender.start()

    def exit(self):
        """The user opens another module; a registration in progress goes on."""
        if self.logic is None:
            return
        self._iterations.stop()
        self._setParameterNode(None)

    def onSceneStartClose(self, caller=None, event=None):
        """All nodes are about to go."""
        self._setParameterNode(None)
        self._registration.abandon()
        for section in (self._iterations, self._following, self._followUp, self._sequence):
            section.abandon()
        self._evaluation.stop()
        self._shown.show(None)

    def onSceneChanged(self, caller=None, event=None):
        """A scene was closed, or loaded and may bring back iterations; at last it is complete."""
        if self.parent.isEntered and not slicer.mrmlScene.IsBatchProcessing():
            self.initializeParameterNode()

    def onNodeAdded(self, caller=None, event=None):
        """Perhaps the volume that was missing; its voxels come after this event."""
        node = self._parameterNode
        if node and not (node.fixedVolume and node.movingVolume):
            qt.QTimer.singleShot(0, self._inputs.pick)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, caller, event, node):
        """A node is about to go, and not the scene as a whole."""
        scene = slicer.mrmlScene
        if scene.IsClosing() or scene.IsImporting() or scene.IsRestoring():
            return
        if self._parameterNode:  # else another module is open
            qt.QTimer.singleShot(0, self._shown.node_left)
        self._shown.node_leaves(node)

    def initializeParameterNode(self):
        """Show the scene's parameter node, with inputs picked where there are none."""
        self._setParameterNode(self.logic.getParameterNode())
        self._inputs.pick()

    def onCopyAsPython(self):
        """Put the console's equivalent of the Register button on the clipboard."""
        code = self.logic.copyAsPython(self._inputs.settings())
        slicer.app.clipboard().setText(code)
        print(code)
        slicer.util.showStatusMessage(_("Copied; paste it into the Python console."), 5000)

    def onReload(self):
        """For developers: Slicer reads only the module's file again, this the library as well."""
        for name in [name for name in sys.modules if name.startswith("L2ORegistrationLib")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def _setParameterNode(self, node):
        if self._parameterNode:
            self._unbind()
            observed = self._parameterNode.parameterNode
            self.removeObserver(observed, vtk.vtkCommand.ModifiedEvent, self._onModified)
        self._parameterNode = node
        self._inputs.follow()
        if node:
            self._advanced.refresh()
            self._unbind = bind(node, self.ui)
            self.addObserver(node.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onModified)
            self._onModified()

    def _onModified(self, caller=None, event=None):
        """Something was chosen: follow it."""
        if slicer.mrmlScene.IsBatchProcessing():
            return
        self._inputs.refresh()
        if not self._registration.running:
            self._advanced.follow_method()
            self._shown.follow_output()
            self._registration.refresh()


class L2ORegistrationLogic(ScriptedLoadableModuleLogic, SceneLogic):
    """For scripts: slicer.util.getModuleLogic("L2ORegistration"); the methods are SceneLogic's."""

    def __init__(self):
        if tooOld():
            raise RuntimeError(tooOld())
        ScriptedLoadableModuleLogic.__init__(self)

    def getParameterNode(self):
        node = super().getParameterNode()
        # A scene of another version, or with a method that somebody added: Slicer would refuse it.
        usual = {"method": (Method, DEFAULT), "start": (Start, "search")}
        for name, (choices, default) in usual.items():
            chosen = node.GetParameter(name)
            if chosen and chosen not in choices.__members__:
                known = OLD_NAMES.get(chosen)
                node.SetParameter(name, known if known in choices.__members__ else default)
        return L2ORegistrationParameterNode(node)

    def devicesAndModels(self):
        """What can be chosen: devices as (name, description, free MB or None) and models as
        (name, name); imports torch, so call it on the worker."""
        from L2ORegistrationLib.engine.devices import available_devices
        from L2ORegistrationLib.engine.models import available_models

        return available_devices(), [(card.name, card.name) for card in available_models()]


class L2ORegistrationTest(ScriptedLoadableModuleTest):
    """The self test: the phantom sample through the logic, in Slicer."""

    def setUp(self):
        problem = tooOld() or PyTorch().problem()
        if problem:
            self.skipTest(problem)  # as on machines that only build extensions
        slicer.mrmlScene.Clear()

    def runTest(self):
        try:
            self.setUp()
        except unittest.SkipTest as reason:  # Slicer's own button knows of none
            self.delayDisplay(str(reason))
            return
        self.test_register_phantom()

    def test_register_phantom(self):
        """The landmarks of the phantom come much closer, and every iteration can be shown."""
        self.delayDisplay("Making the breathing phantom")
        fixed, fixedLandmarks, moving, movingLandmarks = loadBreathingPhantom()
        logic = L2ORegistrationLogic()
        self.delayDisplay("Registering")
        outcome = logic.register(
            fixed, moving, fixedLandmarks=fixedLandmarks, movingLandmarks=movingLandmarks
        )
        errors = [metrics["error"] for metrics in outcome.metrics]
        self.assertLess(min(errors), 0.5 * errors[0])
        session = logic.restore(outcome.transform)
        for index in range(len(session.history)):
            session.select(index)
            self.assertEqual(session.history.index, index)
        self.delayDisplay("Test passed")
