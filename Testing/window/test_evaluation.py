"""The table of landmark errors, the lines between landmarks, folding."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import slicer
from fixtures import add_phantom, process_events, wait_for
from L2ORegistrationLib import job
from L2ORegistrationLib.scene import transforms, volumes
from L2ORegistrationLib.scene.history import History


def cell(panel, row, column):
    return panel.ui.evaluationTable.item(row, column).text()


def test_before_the_registration_there_is_only_a_hint(panel, phantom):
    process_events(0.3)
    assert panel.ui.evaluationHintLabel.text.startswith("The landmark errors appear here")
    assert panel.ui.evaluationTable.isHidden() and panel.ui.errorLinesCheckBox.isHidden()


def test_the_table_has_the_errors_before_and_after(registered, phantom):
    ui = registered.ui
    assert not ui.evaluationTable.isHidden() and ui.evaluationHintLabel.isHidden()
    fixed, moving = (
        slicer.util.arrayFromMarkupsControlPoints(phantom[role + "Landmarks"])
        for role in ("fixed", "moving")
    )
    before = np.linalg.norm(fixed - moving, axis=1)
    assert cell(registered, 0, 0) == "Mean"
    assert float(cell(registered, 0, 1)) == pytest.approx(before.mean(), abs=0.01)
    assert float(cell(registered, 0, 2)) < 0.5
    assert "0.00% folded" in ui.deformationLabel.text


def test_the_table_follows_the_iterations(registered):
    registered.ui.iterationSlider.setValue(0)
    process_events(0.3)
    assert float(cell(registered, 0, 2)) == pytest.approx(float(cell(registered, 0, 1)), abs=0.01)


def test_every_landmark_can_be_listed(registered, phantom):
    registered.ui.everyLandmarkCheckBox.click()
    count = phantom["fixedLandmarks"].GetNumberOfControlPoints()
    assert registered.ui.evaluationTable.rowCount == count


def test_error_lines_can_be_hidden(registered):
    (lines,) = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLModelNode")
        if "error lines" in node.GetName()
    ]
    assert lines.GetDisplayNode().GetVisibility()
    registered.ui.errorLinesCheckBox.click()
    assert not lines.GetDisplayNode().GetVisibility()


def test_no_landmarks_no_table(registered):
    registered.ui.fixedLandmarksSelector.setCurrentNode(None)
    registered.ui.movingLandmarksSelector.setCurrentNode(None)
    process_events(0.3)
    assert registered.ui.evaluationTable.isHidden()
    assert registered.ui.evaluationHintLabel.text.startswith("Choose fixed and moving landmarks")


def test_masks_and_landmarks_of_other_volumes_are_not_used_on_this_result(registered, pair):
    history, node = registered._shown.session.history, registered._parameterNode
    process_events(0.3)
    errors = [metrics["error"] for metrics in history.metrics()]
    other = add_phantom(slicer.mrmlScene, pair)
    points = slicer.util.arrayFromMarkupsControlPoints(other["fixedLandmarks"])
    slicer.util.updateMarkupsControlPointsFromArray(other["fixedLandmarks"], points + 40)
    mask = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "lungs")
    volumes.set_volume(mask, replace(pair.fixed_mask, array=np.ones_like(pair.fixed_mask.array)))
    node.fixedVolume, node.movingVolume, node.fixedMask = other["fixed"], other["moving"], mask
    node.fixedLandmarks, node.movingLandmarks = other["fixedLandmarks"], other["movingLandmarks"]
    process_events(0.5)
    assert registered._shown.session.history.transform is history.transform
    assert [metrics["error"] for metrics in history.metrics()] == errors
    assert registered.ui.evaluationTable.isHidden()
    assert "the volumes that they are of" in registered.ui.evaluationHintLabel.text
    used = registered._shown.lungs(transforms.roles(history.transform)[0])()
    assert used is registered._shown.session.lungs
    corrected = registered._correction._settings()
    assert corrected.fixedMask is corrected.fixedLandmarks is corrected.movingLandmarks is None
    assert registered._inputs.settings().fixedMask is mask


def test_closing_the_scene_while_it_is_assessed(registered, dialogs):
    go = threading.Event()
    job.Call(go.wait, 20)  # the worker is busy
    registered.ui.qualityCheckBox.click()
    wait_for(lambda: registered._evaluation._background.running)
    slicer.mrmlScene.Clear(0)
    assert not registered._evaluation._background.running
    go.set()
    process_events(0.3)
    assert dialogs == [] and "taken from the scene" not in registered.ui.evaluationHintLabel.text


def test_no_table_of_another_result_is_shown(registered, monkeypatch):
    go, assessed = threading.Event(), []
    job.Call(go.wait, 20)  # the worker is busy
    section, session = registered._evaluation, registered._shown.session
    real = section._assessed
    monkeypatch.setattr(section, "_assessed", lambda found: (assessed.append(found), real(found)))
    registered.ui.qualityCheckBox.click()
    wait_for(lambda: section._background.running)
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "other")
    History.create(other).append(session.history.field(1))
    registered._parameterNode.outputTransform = other
    go.set()
    wait_for(lambda: assessed and not section._background.running, 60)
    names = [table.GetName() for table, _rows in assessed]
    assert set(names) == {"other QA after TG-132"}


def test_structures_that_cannot_be_compared_are_said_and_leave_no_table_of_before(registered):
    ui = registered.ui
    ui.qualityCheckBox.click()
    wait_for(lambda: not ui.evaluationTable.isHidden(), 60)
    process_events(0.3)
    lungs = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "lungs")
    ui.fixedStructuresSelector.setCurrentNode(lungs)
    ui.movingStructuresSelector.setCurrentNode(lungs)
    wait_for(lambda: "are the same node" in ui.evaluationHintLabel.text)
    assert ui.evaluationTable.isHidden()


def test_landmarks_that_do_not_match_are_explained_without_a_popup(registered, dialogs):
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "two points")
    slicer.util.updateMarkupsControlPointsFromArray(other, np.zeros((2, 3)))
    for index, name in enumerate(("carina", "apex")):
        other.SetNthControlPointLabel(index, name)
    registered.ui.fixedLandmarksSelector.setCurrentNode(other)
    process_events(0.3)
    assert "landmarks" in registered.ui.evaluationHintLabel.text
    assert registered.ui.evaluationTable.isHidden() and dialogs == []
