"""The module in its application: help, sample data, PyTorch, console, scenes, reloading."""

import gc
import importlib.util
import sys
import threading
import types
import unittest

import numpy as np
import pytest
import slicer
from fixtures import SteeredEngine, grid_magnitude, process_events, wait_for
from L2ORegistrationLib.scene.run import Run
from L2ORegistrationLib.scene.settings import Settings
from PySide6 import QtWidgets
from standin import application, widgets


def test_slicer_can_list_it(app):
    application.load_module()
    described = app.module("L2ORegistration")
    assert described.title == "L2O Registration" and described.categories == ["Registration"]
    assert "Three clicks" in described.helpText and "research" in described.helpText
    assert "Learning iterative optimisation" in described.acknowledgementText


def test_sample_data_are_offered_and_made_here(panel, monkeypatch):
    offered = []
    logic = types.SimpleNamespace(
        registerCustomSampleDataCategory=lambda name, title: offered.append(title),
        registerCustomSampleDataSource=lambda **source: offered.append(source),
    )
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    slicer.app.emit("startupCompleted()")
    title, source, breath = offered[-3:]
    assert title == "L2O Registration" and open(source["thumbnailFileName"], "rb").read(4)
    assert breath["sampleName"] == "Breathing phantom 4DCT" and breath["customDownloader"]
    nodes = source["customDownloader"](source)
    process_events()
    assert len(nodes) == 4 and all(node.GetScene() for node in nodes)
    assert panel.ui.registerButton.enabled  # volumes and landmarks were picked
    assert panel._parameterNode.fixedLandmarks and panel._parameterNode.movingLandmarks


def test_the_console_reaches_the_logic(panel, phantom, pair, engine, monkeypatch):
    logic = slicer.util.getModuleLogic("L2ORegistration")
    assert logic is panel.logic
    steered = engine()
    monkeypatch.setattr("L2ORegistrationLib.job._engine_registration", steered)
    seen = []
    outcome = logic.register(phantom["fixed"], phantom["moving"], onStep=seen.append)
    assert [step.index for step in seen] == list(range(6))
    assert len(outcome.metrics) == 6 and grid_magnitude(outcome.transform) > 0


def test_the_console_can_register_into_the_transform_that_is_shown(registered, phantom, pair):
    shown = registered._parameterNode.outputTransform
    given = Settings(phantom["fixed"], phantom["moving"], outputTransform=shown)
    Run(given, preview=False, factory=SteeredEngine(pair, steps=4)).wait()
    process_events(0.1)
    assert registered._shown.session.history.transform is shown
    assert registered.ui.iterationSlider.enabled and registered.ui.iterationSlider.maximum == 3


def test_copy_as_python_is_the_call_that_repeats_it(panel, phantom, engine, monkeypatch):
    process_events()
    panel._parameterNode.outputVolume = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLScalarVolumeNode", "Warped"
    )
    panel.ui.iterationsSpinBox.setValue(3)
    panel.ui.copyAsPythonButton.click()
    code = slicer.app.clipboard().text()
    called = {}
    monkeypatch.setattr(panel.logic, "register", lambda *a, **k: called.update(args=a, **k))
    exec(code, {"slicer": slicer})
    assert called.pop("args") == (phantom["fixed"], phantom["moving"])
    assert called["outputVolume"] is panel._parameterNode.outputVolume
    assert called["iterations"] == 3 and called["fixedLandmarks"] is phantom["fixedLandmarks"]


def test_devices_and_models_are_listed_when_advanced_is_opened(panel, monkeypatch):
    go, asked = threading.Event(), []

    def found():
        go.wait(10)
        asked.append(threading.current_thread())
        return [("cuda:0", "A GPU", 8000), ("cpu", "CPU", None)], [("big", "big")]

    monkeypatch.setattr(panel.logic, "devicesAndModels", found)
    process_events()
    assert asked == [] and panel.ui.deviceComboBox.count == 1
    panel.ui.advancedCollapsibleButton.collapsed = False
    process_events(0.1)
    assert panel.ui.deviceComboBox.count == 1  # the window does not wait for the answer
    go.set()
    wait_for(lambda: panel.ui.deviceComboBox.count > 1)
    assert len(asked) == 1 and asked[0] is not threading.main_thread()
    texts = [panel.ui.deviceComboBox.itemText(i) for i in range(panel.ui.deviceComboBox.count)]
    assert texts == ["Automatic", "A GPU \u00b7 8000 MB free", "CPU"]
    panel.ui.methodComboBox.setCurrentText("L2O")  # which has weights
    panel.ui.deviceComboBox.setCurrentIndex(1)
    panel.ui.modelComboBox.setCurrentIndex(1)
    settings = panel._inputs.settings()
    assert (settings.device, settings.model) == ("cuda:0", "big")
    panel.ui.advancedCollapsibleButton.collapsed = True
    panel.exit()
    panel.enter()
    assert panel._inputs.settings().device == "cuda:0"


def test_devices_that_cannot_be_listed_are_said(panel, dialogs, monkeypatch):
    def fail():
        raise RuntimeError("no driver")

    monkeypatch.setattr(panel.logic, "devicesAndModels", fail)
    panel.ui.advancedCollapsibleButton.collapsed = False
    wait_for(lambda: dialogs)
    assert "no driver" in dialogs[0] and panel._inputs.settings().device == "auto"


@pytest.mark.parametrize("read", ["Import", "Connect"])
def test_iterations_survive_saving_and_loading_the_scene(registered, tmp_path, read):
    """Into an empty scene (Import) or in place of the one that is there (Connect)."""
    scene = slicer.mrmlScene
    registered.ui.iterationSlider.setValue(4)
    registered.ui.arrowsButton.click()
    before = grid_magnitude(registered._parameterNode.outputTransform)
    for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
        if node.GetSaveWithScene() and node.AddDefaultStorageNode():
            storage = node.GetStorageNode()
            name = f"{node.GetID()}.{storage.GetDefaultWriteFileExtension()}"
            storage.SetFileName(str(tmp_path / name))
            assert storage.WriteData(node)
    scene.SetRootDirectory(str(tmp_path))
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    if read == "Import":
        scene.Clear()
        process_events()
        assert not registered.ui.iterationSlider.enabled
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert getattr(scene, read)()
    process_events(0.3)
    assert registered.ui.iterationSlider.enabled and registered.ui.iterationSlider.maximum == 5
    assert registered.ui.iterationSlider.value == 4
    assert grid_magnitude(registered._parameterNode.outputTransform) == pytest.approx(before)
    assert registered.ui.iterationLabel.text.startswith("Iteration 3 of 4")
    assert not registered.ui.evaluationTable.isHidden()
    assert registered.ui.registerButton.enabled
    drawn = registered._parameterNode.outputTransform.GetDisplayNode()
    assert drawn.GetVisibility2D() and registered.ui.arrowsButton.checked
    composite = scene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    preview = registered._shown.session.preview.volume.GetID()
    assert composite.GetForegroundVolumeID() == preview  # which is not saved, but made again
    assert composite.GetForegroundOpacity() == 0.5


def test_the_panel_can_be_thrown_away_and_made_again(registered):
    scene = registered._shown.session.history.browser.GetScene()
    registered.exit()
    registered.cleanup()
    again = application.open_panel()
    process_events()
    assert again.ui.iterationSlider.maximum == 5
    previews = [
        n
        for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", scene)
        if "warped" in n.GetName()
    ]
    assert len(previews) == 1
    again.exit()
    again.cleanup()


def test_opened_again_and_again_it_does_not_grow_slower(panel, monkeypatch):
    """Slicer before 5.12 forgets its observer, and what that holds, in disconnectGui()."""
    node, there, forgetting = panel._parameterNode.parameterNode, set(), []
    kind = type(panel._parameterNode)
    add, remove, disconnect = node.AddObserver, node.RemoveObserver, kind.disconnectGui
    panel.exit()

    def added(*given):
        there.add(tag := add(*given))
        return tag

    def removed(tag):
        if not forgetting:
            there.discard(tag)
            remove(tag)

    def forgetful(self, gui):
        forgetting.append(True)
        disconnect(self, gui)
        forgetting.clear()

    monkeypatch.setattr(node, "AddObserver", added)
    monkeypatch.setattr(node, "RemoveObserver", removed)
    monkeypatch.setattr(kind, "disconnectGui", forgetful)
    counts = []
    for _ in range(3):
        panel.enter()
        gc.collect()
        counts.append(len(there))
        panel.exit()
    assert counts[0] > 1 and counts == counts[:1] * 3


def test_dialogs_have_details(panel, engine, dialogs, monkeypatch):
    details = []
    monkeypatch.setattr(
        widgets.ctkMessageBox, "answer", staticmethod(lambda box: details.append(box.detailedText))
    )
    engine(fail={1: RuntimeError("out of luck")})
    panel.ui.registerButton.click()
    wait_for(lambda: not panel._registration.running)
    assert "Traceback" in details[0] and "out of luck" in details[0]


def test_inputs_are_left_alone(panel, phantom, engine):
    before = {
        role: (slicer.util.arrayFromVolume(phantom[role]).copy(), phantom[role].GetMTime())
        for role in ("fixed", "moving")
    }
    engine()
    panel.ui.registerButton.click()
    wait_for(lambda: not panel._registration.running)
    for role, (voxels, _) in before.items():
        assert np.array_equal(slicer.util.arrayFromVolume(phantom[role]), voxels)
        assert phantom[role].GetParentTransformNode() is None


def test_an_older_slicer_says_that_it_is_too_old(scene, monkeypatch):
    module = application.load_module()
    monkeypatch.setattr(module, "_OLDEST_PYTHON", (99, 0))
    monkeypatch.setattr(type(slicer.app), "minorVersion", 8)
    panel = application.open_panel()
    labels = panel.parent.findChildren(QtWidgets.QLabel)
    said = "L2O Registration needs Slicer 5.10 or later, this is 5.8: install a newer one."
    assert [label.text() if callable(label.text) else label.text for label in labels] == [said]
    application.close_panel(panel)
    with pytest.raises(RuntimeError, match="needs Slicer 5.10"):
        module.L2ORegistrationLogic()


def self_test():
    """The module's own test, run as Slicer's ctest does."""
    module = application.load_module()
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(module.L2ORegistrationTest)
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun > 0 and result.wasSuccessful(), result.failures + result.errors
    return result


def test_the_self_test_is_skipped_without_torch(scene, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *o: None if name == "torch" else found(name, *o)
    )
    (skipped,) = self_test().skipped
    assert "is not installed yet" in skipped[1]


@pytest.mark.slow
def test_the_self_test_passes_with_torch(scene):
    assert self_test().skipped == []
