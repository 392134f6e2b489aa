"""What follows a registration, in the window: inverse, volume change, QA, correction, follow-up."""

import numpy as np
import pytest
import slicer
from fixtures import (
    SteeredEngine,
    add_phantom,
    grid_magnitude,
    pause_between_clicks,
    process_events,
    wait_for,
)
from L2ORegistrationLib.core.geometry import Volume
from L2ORegistrationLib.scene import correction, transforms, volumes
from L2ORegistrationLib.scene.tasks import Task


def nodes_named(part, kind="vtkMRMLNode"):
    return [n for n in slicer.util.getNodesByClass(kind) if part in (n.GetName() or "")]


def test_the_sections_wait_for_a_result(panel, phantom):
    process_events(0.1)
    for button in (
        panel._following.confidenceButton,
        *(panel._following.inverseButton, panel._following.ventilationButton),
        *(panel._correction.addButton, panel._correction.continueButton),
        *(panel._correction.undoButton, panel._followUp.findButton, panel._followUp.changeButton),
    ):
        assert not button.enabled and button.toolTip


def test_how_sure_the_result_is_lies_over_the_fixed_volume(registered, phantom, dialogs):
    section = registered._following
    section.confidenceButton.click()
    (told,) = nodes_named("confidence (mm)", "vtkMRMLScalarVolumeNode")
    assert not told.GetHideFromEditors()
    composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    assert composite.GetForegroundVolumeID() == told.GetID()
    assert composite.GetBackgroundVolumeID() == phantom["fixed"].GetID()
    assert told.GetDisplayNode().GetApplyThreshold()
    assert "over the lungs" in section.confidenceLabel.text and dialogs == []
    registered._shown.session.history.index = 1
    process_events(0.2)
    section.confidenceButton.click()
    assert "choose that one" in section.confidenceLabel.text


def test_a_result_that_was_kept_by_hand_has_no_confidence(registered):
    section = registered._following
    registered._shown.session.history.index = 2
    registered.ui.keepButton.click()
    for index in (2, 5):
        registered._shown.session.history.index = index
        section.confidenceButton.click()
        assert section.confidenceLabel.text.startswith("There is no estimate of this result")


def test_what_follows_waits_for_the_end_of_a_registration(registered, engine, phantom):
    """Its iterations may be discarded, and what takes long is computed after it."""
    following, follow_up, ui = registered._following, registered._followUp, registered.ui
    follow_up.pointsSelector.setCurrentNode(phantom["fixedLandmarks"])
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "nodules")
    process_events()
    follow_up._segments["fixed"][0].setCurrentNode(segmentation)
    buttons = (
        *(following.confidenceButton, following.inverseButton, following.ventilationButton),
        *(follow_up.findButton, follow_up.changeButton, ui.keepButton, ui.checkerboardButton),
    )
    assert all(button.enabled for button in buttons)
    steered = engine(free=False)
    pause_between_clicks()
    ui.registerButton.click()
    assert not any(button.enabled for button in buttons)
    steered.go(3)
    wait_for(lambda: ui.iterationSlider.maximum == 2)
    assert not any(button.enabled for button in buttons) and ui.blendButton.enabled
    steered.go(3)
    wait_for(lambda: not registered._registration.running)
    assert all(button.enabled for button in buttons)


def test_another_pair_begins_with_empty_sections(registered, engine, pair, phantom, dialogs):
    correction_, following = registered._correction, registered._following
    follow_up, first = registered._followUp, registered._parameterNode.outputTransform
    correction_.addButton.click()
    following.confidenceButton.click()
    follow_up.pointsSelector.setCurrentNode(phantom["fixedLandmarks"])
    follow_up.findButton.click()
    wait_for(lambda: not follow_up.running, 60)
    assert follow_up.pointsTable.rowCount and correction_.continueButton.enabled
    other = add_phantom(slicer.mrmlScene, pair)
    node = registered._parameterNode
    node.fixedVolume, node.movingVolume = other["fixed"], other["moving"]
    engine()
    pause_between_clicks()
    registered.ui.registerButton.click()
    wait_for(lambda: not registered._registration.running)
    assert node.outputTransform is not first
    assert correction_.fixedSelector.currentNode() is None
    assert correction_.movingSelector.currentNode() is None
    assert not following.confidenceLabel.text and not follow_up.pointsTable.rowCount
    assert follow_up.pointsTable.isHidden() and dialogs == []


def test_without_pytorch_nothing_is_said_to_be_computed(registered, monkeypatch, dialogs):
    monkeypatch.setattr(registered._torch, "ensure", lambda: False)
    registered._following.inverseButton.click()
    assert not registered._following.running and not registered._following.inverseLabel.text
    assert registered._following.inverseButton.enabled and dialogs == []


def test_what_waits_goes_on_after_what_cannot_begin(registered):
    background, done, failed = registered._following._background, [], []
    task = Task(lambda: 1, lambda found: found)

    def broken():
        raise ValueError("no luck")

    for make in (lambda: task, broken, lambda: task):
        background.start(make, done.append, lambda *said: failed.append(said))
    wait_for(lambda: not background.running)
    assert done == [1, 1] and "no luck" in failed[0][0] and "Traceback" in failed[0][1]


def test_the_inverse_is_made_beside_the_window_and_says_what_it_misses(registered, dialogs):
    section = registered._following
    section.inverseButton.click()
    assert section.running and not section.inverseButton.enabled  # the click did not wait
    wait_for(lambda: not section.running, 60)
    (inverse,) = nodes_named("inverse", "vtkMRMLTransformNode")
    output = registered._parameterNode.outputTransform
    assert transforms.roles(inverse) == transforms.roles(output)[::-1]
    assert "mm on average" in section.inverseLabel.text and inverse.GetName() in (
        section.inverseLabel.text
    )
    assert float(inverse.GetAttribute("L2ORegistration.RoundTrip.mean")) < 0.1
    assert dialogs == [] and section.inverseButton.enabled


def test_a_mask_that_cannot_be_read_is_said(registered, dialogs):
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "no segments")
    registered._parameterNode.fixedMask = empty
    registered._following.inverseButton.click()
    process_events(0.1)
    assert len(dialogs) == 1 and "has no segments" in dialogs[0]
    assert registered._following.inverseLabel.text == ""


def test_the_volume_change_is_a_map_with_a_scale_and_a_table(registered, dialogs, phantom):
    section = registered._following
    section.ventilationButton.click()
    wait_for(lambda: not section.running, 60)
    assert dialogs == []
    maps = nodes_named("Ventilation by", "vtkMRMLScalarVolumeNode")
    assert len(maps) == 2 and all("volume gained" in n.GetName() for n in maps)
    legend = maps[0].GetNthDisplayNode(1)
    assert legend.IsA("vtkMRMLColorLegendDisplayNode") and legend.GetVisibility()
    table = section.regionsTable
    assert not table.isHidden() and table.rowCount == 9
    assert table.item(0, 0).text() == "both lungs"
    assert table.horizontalHeaderItem(1).text() == "ml"
    assert "ml at expiration" in section.ventilationLabel.text
    foregrounds = {
        n.GetForegroundVolumeID() for n in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    }
    assert foregrounds <= {n.GetID() for n in maps}


def test_tg_132_stands_in_the_table(registered, dialogs):
    ui = registered.ui
    ui.qualityCheckBox.click()
    wait_for(lambda: not ui.evaluationTable.isHidden() and ui.evaluationTable.columnCount == 3, 30)
    wait_for(lambda: ui.evaluationTable.rowCount == 5, 30)
    rows = [[ui.evaluationTable.item(r, c).text() for c in range(3)] for r in range(5)]
    assert rows[0][0] == "Target registration error, landmarks"
    assert rows[3][0] == "Jacobian determinant, lungs"
    assert rows[0][2].startswith("within: mean 2 mm") and rows[3][2].startswith("within:")
    assert rows[4][2].startswith("not measured:") and "exchanged scans" in rows[4][1]
    assert not ui.fixedStructuresSelector.isHidden()
    ui.qualityCheckBox.click()
    assert ui.evaluationTable.item(0, 0).text() == "Mean" and ui.fixedStructuresSelector.isHidden()
    assert dialogs == []


def pulled_by(panel, section, monkeypatch, pair):
    """A pair is added and its moving point dragged; the engine then goes on, a step at a time."""
    section.addButton.click()
    transform = panel._shown.session.history.transform
    fixed, moving = section.fixedSelector.currentNode(), section.movingSelector.currentNode()
    there = slicer.util.arrayFromMarkupsControlPoints(fixed, world=True)
    np.testing.assert_allclose(
        slicer.util.arrayFromMarkupsControlPoints(moving, world=True), there, atol=0.05
    )  # both are seen at the same place, one in each image
    assert transforms.is_under(moving, transform)
    moving.SetNthControlPointPositionWorld(0, *(there[0] + (0, 0, 6)))
    steered = SteeredEngine(pair, steps=4, free=False)
    real = correction.Continuation.__init__

    def init(self, *args, **options):
        real(self, *args, **{**options, "factory": steered})

    monkeypatch.setattr(correction.Continuation, "__init__", init)
    return steered, fixed


def test_continue_from_here_adds_iterations_and_undo_takes_them_back(
    registered, monkeypatch, pair, dialogs
):
    section, ui = registered._correction, registered.ui
    before = grid_magnitude(registered._parameterNode.outputTransform)
    assert not section.undoButton.enabled and not section.continueButton.enabled
    steered, fixed = pulled_by(registered, section, monkeypatch, pair)
    section.continueButton.click()
    assert ui.registerButton.text == "Cancel" and not section.continueButton.enabled
    steered.go(2)
    wait_for(lambda: len(registered._shown.session.history) == 7)
    assert ui.iterationLabel.text.startswith("Iteration 5 of 5 \u00b7 pulled by hand")
    start = steered.arguments["initial_transform"]
    point = transforms.ras_lps(slicer.util.arrayFromMarkupsControlPoints(fixed, world=True))
    np.testing.assert_allclose(steered.arguments["pinned"], point, atol=1e-3)
    there = registered._shown.session.history.field(5).transform_points(point)
    assert np.linalg.norm(start.transform_points(point) - there) > 3  # it was pulled
    steered.go(2)
    wait_for(lambda: not registered._registration.running)
    assert len(registered._shown.session.history) == 9 and ui.iterationSlider.value == 8
    assert registered._shown.session.curve.table.GetTable().GetNumberOfRows() == 9
    assert "steered the result" in ui.hintLabel.text
    section.undoButton.click()
    process_events(0.1)
    assert ui.iterationSlider.maximum == 5 and ui.iterationSlider.value == 5
    assert registered._shown.session.curve.table.GetTable().GetNumberOfRows() == 6
    assert grid_magnitude(registered._parameterNode.outputTransform) == pytest.approx(before)
    assert not section.undoButton.enabled and section.continueButton.enabled and dialogs == []


def test_a_pair_is_added_and_dragged_under_the_whole_motion(registered):
    """Its moving point lies under the output transform; the image must, too."""
    registered.ui.strengthSlider.setValue(0.3)
    registered._correction.addButton.click()
    session, moving = registered._shown.session, registered._correction.movingSelector.currentNode()
    assert session.strength == registered.ui.strengthSlider.value == 1
    assert session.preview.volume.GetParentTransformNode() is moving.GetParentTransformNode()


def test_two_quick_clicks_take_one_correction_back(registered, monkeypatch, pair):
    history = registered._shown.session.history
    for _ in range(2):
        history.remember()
        history.append(history.field(0), dissimilarity=0.5)
    registered._correction.refresh()
    assert len(history) == 8
    registered._correction.undoButton.click()
    registered._correction.undoButton.click()
    process_events()
    assert len(history) == 7 and history.can_undo


def test_a_correction_that_fails_leaves_the_result(registered, monkeypatch, pair, dialogs):
    section = registered._correction
    steered, _fixed = pulled_by(registered, section, monkeypatch, pair)
    steered.fail = {2: RuntimeError("no luck")}
    section.continueButton.click()
    steered.go(3)
    wait_for(lambda: not registered._registration.running)
    process_events(0.1)
    assert "no luck" in dialogs[0]
    assert registered.ui.iterationSlider.maximum == 5 and registered.ui.iterationSlider.value == 5
    assert registered._shown.session.preview is not None and section.continueButton.enabled


def test_a_marked_point_is_found_and_both_views_jump_there(registered, phantom, pair, dialogs):
    section = registered._followUp
    section.pointsSelector.setCurrentNode(phantom["fixedLandmarks"])
    section.findButton.click()
    wait_for(lambda: not section.running, 60)
    assert dialogs == []
    count = phantom["fixedLandmarks"].GetNumberOfControlPoints()
    assert section.pointsTable.rowCount == count
    sure = {section.pointsTable.item(row, 2).text() for row in range(count)}
    assert sure <= {"1.5 mm", "not known"} and "1.5 mm" in sure
    (made,) = nodes_named("landmarks in moving", "vtkMRMLMarkupsFiducialNode")
    found, true = (
        slicer.util.arrayFromMarkupsControlPoints(node, world=True)
        for node in (made, phantom["movingLandmarks"])
    )
    assert np.linalg.norm(found - true, axis=1).mean() < 0.5
    section.pointsTable.selectRow(2)
    for name, node in (("Red", phantom["fixedLandmarks"]), ("Yellow", made)):
        view = next(
            n for n in slicer.util.getNodesByClass("vtkMRMLSliceNode") if n.GetLayoutName() == name
        )
        centre = [view.GetSliceToRAS().GetElement(k, 3) for k in range(3)]
        point = slicer.util.arrayFromMarkupsControlPoints(node, world=True)[2]
        np.testing.assert_allclose(centre, point, atol=1e-3)


def test_the_volume_change_of_a_segment_is_said(registered, phantom, pair, dialogs):
    mask = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "ball")
    centre = pair.fixed_landmarks[0]
    inside = np.linalg.norm(pair.fixed.grid.points() - centre, axis=-1) < 14
    volumes.set_volume(mask, Volume(inside.astype(np.uint8), pair.fixed.grid))
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "nodules")
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.ImportLabelmapToSegmentationNode(mask, segmentation)
    process_events(0.1)
    section = registered._followUp
    section._segments["fixed"][0].setCurrentNode(segmentation)
    assert section.changeButton.enabled and not section._segments["fixed"][1].isHidden()
    section.changeButton.click()
    wait_for(lambda: not section.running, 60)
    assert dialogs == []
    ml = inside.sum() * 6**3 / 1000
    assert f"{ml:.2f} ml in fixed" in section.changeLabel.text


def test_closing_the_scene_while_something_is_computed(registered, dialogs):
    registered._following.inverseButton.click()
    slicer.mrmlScene.Clear(0)
    process_events(0.5)
    assert dialogs == [] and not registered._following.running
    assert not registered._following.inverseButton.enabled
    assert registered._following.inverseLabel.isHidden()
