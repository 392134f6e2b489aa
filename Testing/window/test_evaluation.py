"""The table of landmark errors, the lines between landmarks, folding."""

import numpy as np
import pytest
import slicer
from fixtures import process_events


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


def test_landmarks_that_do_not_match_are_explained_without_a_popup(registered, dialogs):
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "two points")
    slicer.util.updateMarkupsControlPointsFromArray(other, np.zeros((2, 3)))
    for index, name in enumerate(("carina", "apex")):
        other.SetNthControlPointLabel(index, name)
    registered.ui.fixedLandmarksSelector.setCurrentNode(other)
    process_events(0.3)
    assert "landmarks" in registered.ui.evaluationHintLabel.text
    assert registered.ui.evaluationTable.isHidden() and dialogs == []
