"""Walking through the iterations afterwards, and what can be seen and kept on the way."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest
import slicer
from fixtures import add_phantom, grid_magnitude, pause_between_clicks, process_events, wait_for
from L2ORegistrationLib import job
from L2ORegistrationLib.core.jacobian import jacobian_determinant
from L2ORegistrationLib.scene import transforms
from PySide6 import QtCore, QtTest

COMPOSITES = "vtkMRMLSliceCompositeNode"


def shown(panel):
    """The largest displacement of the output transform, as a share of the last iteration's."""
    history = panel._shown.session.history
    last = abs(history.field(len(history) - 1).array).max()
    return grid_magnitude(history.transform) / last


def composites():
    return slicer.util.getNodesByClass(COMPOSITES)


def test_the_slider_moves_transform_preview_and_marker(registered):
    ui, session = registered.ui, registered._shown.session
    assert ui.iterationSlider.value == 5 and shown(registered) == pytest.approx(1)
    for index in (0, 3, 1):
        ui.iterationSlider.setValue(index)
        assert shown(registered) == pytest.approx(index / 5, abs=1e-6)
        assert session.history.browser.GetSelectedItemNumber() == index
        marked = session.curve._node("markTable", "vtkMRMLTableNode", "").GetTable()
        assert marked.GetValue(0, 0).ToFloat() == index - 1  # iterations count from the start
    assert session.preview.volume.GetParentTransformNode() is session.history.transform


def test_each_iteration_tells_its_metrics(registered):
    ui = registered.ui
    first, second = ui.iterationLabel.text.split("\n")
    assert first == "Iteration 4 of 4 (result)"
    assert second.startswith("Landmark error") and second.endswith("dissimilarity 0.1000")
    ui.iterationSlider.setValue(0)
    assert ui.iterationLabel.text.startswith("Before the registration\n")
    ui.iterationSlider.setValue(1)
    assert ui.iterationLabel.text.startswith("Iteration 0 of 4 \u00b7 the start\n")
    assert "mm" in ui.iterationLabel.text


def test_buttons_and_arrow_keys_step(registered):
    ui = registered.ui
    ui.previousButton.click()
    assert ui.iterationSlider.value == 4
    ui.nextButton.click()
    assert ui.iterationSlider.value == 5
    for key, value in ((QtCore.Qt.Key_Left, 4), (QtCore.Qt.Key_Left, 3), (QtCore.Qt.Key_Right, 4)):
        QtTest.QTest.keyClick(ui.iterationSlider, key)
        assert ui.iterationSlider.value == value == registered._shown.session.history.index


def test_the_sequence_browser_moves_the_slider(registered):
    registered._shown.session.history.browser.SetSelectedItemNumber(2)
    assert registered.ui.iterationSlider.value == 2


def test_play_runs_from_the_start_and_stops_at_the_end(registered):
    ui = registered.ui
    registered._iterations._play_timer.setInterval(5)
    ui.playButton.click()
    assert ui.playButton.text == "Stop" and ui.iterationSlider.value == 0
    wait_for(lambda: not ui.playButton.checked)
    assert ui.iterationSlider.value == 5 and ui.playButton.text == "Play"
    ui.playButton.click()
    ui.playButton.click()
    process_events(0.02)
    assert ui.iterationSlider.value == 0


def test_a_step_takes_less_than_a_tenth_of_a_second(registered):
    seconds = []
    for index in (4, 3, 2, 1, 0, 5):
        began = time.monotonic()
        registered.ui.iterationSlider.setValue(index)
        process_events()
        seconds.append(time.monotonic() - began)
    assert np.median(seconds) < 0.1


def test_strength_fades_the_preview_only(registered):
    session = registered._shown.session
    registered.ui.strengthSlider.setValue(0.5)
    assert session.strength == 0.5 and shown(registered) == pytest.approx(1)
    parent = session.preview.volume.GetParentTransformNode()
    assert parent is not session.history.transform
    point = session.history.field(5).grid.to_world([4, 4, 4])
    half, full = (
        np.subtract(_from_world(node, transforms.ras_lps(point)), transforms.ras_lps(point))
        for node in (parent, session.history.transform)
    )
    assert half == pytest.approx(0.5 * full, abs=1e-4)


def _from_world(node, point):
    return node.GetTransformFromParent().TransformPoint(point)


def test_blend_and_side_by_side(registered, phantom):
    warped = registered._shown.session.preview.volume.GetID()
    registered.ui.blendButton.click()
    assert {node.GetForegroundVolumeID() for node in composites()} == {warped}
    assert {node.GetForegroundOpacity() for node in composites()} == {0.5}
    registered.ui.sideBySideButton.click()
    backgrounds = {node.GetLayoutName(): node.GetBackgroundVolumeID() for node in composites()}
    assert backgrounds["Yellow"] == warped and backgrounds["Red"] == phantom["fixed"].GetID()
    assert all(node.GetLinkedControl() for node in composites())


def test_flicker_alternates_until_something_else_is_chosen(registered):
    ui = registered.ui
    registered._iterations._flicker_timer.setInterval(5)
    ui.flickerButton.click()
    seen = set()
    wait_for(lambda: seen.add(composites()[0].GetForegroundOpacity()) or len(seen) == 2)
    assert seen == {0.0, 1.0}
    ui.blendButton.click()
    assert not ui.flickerButton.checked
    process_events(0.03)
    assert composites()[0].GetForegroundOpacity() == 0.5


def test_checkerboard_is_one_volume_that_is_used_again(registered, phantom):
    registered.ui.checkerboardButton.click()
    board = slicer.util.getNode("Checkerboard")
    assert composites()[0].GetBackgroundVolumeID() == board.GetID()
    wait_for(lambda: board.GetImageData() is not None, 30)
    fixed = slicer.util.arrayFromVolume(phantom["fixed"])
    assert np.mean(slicer.util.arrayFromVolume(board) == fixed) > 0.4
    registered.ui.checkerboardButton.click()
    assert len(slicer.util.getNodes("Checkerboard*")) == 1


def test_outputs_are_of_the_iteration_that_was_kept_also_where_they_have_to_wait(registered):
    node, slider = registered._parameterNode, registered.ui.iterationSlider
    node.outputJacobian = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "J")
    go = threading.Event()
    job.Call(go.wait, 20)  # the worker is busy
    registered.ui.checkerboardButton.click()
    slider.setValue(3)
    registered.ui.keepButton.click()
    slider.setValue(0)
    go.set()
    wait_for(lambda: not registered._iterations._volumes.running, 60)
    field = registered._shown.session.history.field(3)
    found = slicer.util.arrayFromVolume(node.outputJacobian)
    np.testing.assert_allclose(found, jacobian_determinant(field).array, atol=1e-5)


def test_a_closed_scene_keeps_no_checkerboard_in_memory(registered):
    registered.ui.checkerboardButton.click()
    board = weakref.ref(slicer.util.getNode("Checkerboard"))
    wait_for(lambda: not registered._iterations._volumes.running)
    slicer.mrmlScene.Clear(0)
    gc.collect()
    assert board() is None


def test_reveal_is_offered_where_compare_volumes_exists(registered):
    assert registered.ui.revealButton.isHidden()  # not in this stand-in


def test_grid_and_arrows_exclude_each_other(registered):
    ui, display = registered.ui, slicer.vtkMRMLTransformDisplayNode
    ui.gridButton.click()
    node = registered._shown.session.history.transform.GetDisplayNode()
    assert node.GetVisibility2D() and node.GetVisualizationMode() == display.VIS_MODE_GRID
    ui.arrowsButton.click()
    assert not ui.gridButton.checked
    assert node.GetVisibility2D() and node.GetVisualizationMode() == display.VIS_MODE_GLYPH
    ui.arrowsButton.click()
    assert not node.GetVisibility2D()


def test_the_curve_opens_in_a_plot_view(registered):
    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotViewNode")
    registered.ui.curveButton.click()
    chart = registered._shown.session.curve.chart
    assert view.GetPlotChartNodeID() == chart.GetID()
    assert chart.GetNumberOfPlotSeriesNodes() == 4


def test_keep_makes_an_iteration_the_result(registered):
    ui = registered.ui
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Warped")
    registered._parameterNode.outputVolume = volume
    ui.iterationSlider.setValue(3)
    ui.keepButton.click()
    assert ui.iterationLabel.text.startswith("Iteration 2 of 4 (result)")
    kept = slicer.util.getNode("*iteration 2")
    ui.iterationSlider.setValue(5)
    assert grid_magnitude(kept) == pytest.approx(
        0.6 * grid_magnitude(registered._shown.session.history.transform), rel=1e-5
    )
    wait_for(lambda: volume.GetImageData() is not None, 30)


def test_apply_to_puts_what_is_ticked_under_the_transform(registered, phantom):
    ui = registered.ui
    ui.applyToButton.click()
    assert slicer.app.window.statusBar().currentMessage().startswith("Tick what shall follow")
    dose = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "dose")
    ui.applyToSelector.setCheckState(phantom["movingLandmarks"], 2)
    ui.applyToSelector.setCheckState(dose, 2)
    ui.applyToButton.click()
    transform = registered._shown.session.history.transform
    for node in (dose, phantom["movingLandmarks"]):
        assert node.GetParentTransformNode() is transform
    assert phantom["moving"].GetParentTransformNode() is None
    assert "dose" in slicer.app.window.statusBar().currentMessage()


def test_what_cannot_follow_is_said(registered, phantom, dialogs):
    bend = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "bend")
    transforms.set_field(bend, registered._shown.session.history.field(3))
    phantom["movingLandmarks"].SetAndObserveTransformNodeID(bend.GetID())
    registered.ui.applyToSelector.setCheckState(phantom["movingLandmarks"], 2)
    registered.ui.applyToButton.click()
    assert len(dialogs) == 1 and "bend" in dialogs[0]


def test_comparing_without_the_moving_volume_is_refused(registered, phantom, dialogs):
    slicer.mrmlScene.RemoveNode(phantom["moving"])
    registered.ui.checkerboardButton.click()
    assert len(dialogs) == 1 and "no longer in the scene" in dialogs[0]


@pytest.mark.parametrize("what", ["fixed", "preview"])
def test_what_needs_a_volume_that_is_gone_is_disabled(registered, phantom, what):
    gone = phantom["fixed"] if what == "fixed" else registered._shown.session.preview.volume
    slicer.mrmlScene.RemoveNode(gone)
    registered.exit()
    registered.enter()
    for name in ("blend", "sideBySide", "flicker", "checkerboard"):
        assert not getattr(registered.ui, name + "Button").enabled
    assert registered.ui.iterationSlider.enabled


@pytest.mark.parametrize("what", ["fixed", "preview"])
def test_a_volume_that_goes_while_others_are_chosen_disables_what_needs_it(
    registered, phantom, pair, what
):
    other, node = add_phantom(slicer.mrmlScene, pair), registered._parameterNode
    node.fixedVolume, node.movingVolume = other["fixed"], other["moving"]
    process_events()
    gone = phantom["fixed"] if what == "fixed" else registered._shown.session.preview.volume
    slicer.mrmlScene.RemoveNode(gone)
    process_events()
    for name in ("blend", "sideBySide", "flicker", "checkerboard"):
        assert not getattr(registered.ui, name + "Button").enabled


@pytest.mark.parametrize("what", ["browser", "sequence"])
def test_without_its_iterations_nothing_is_offered(registered, dialogs, what):
    slicer.mrmlScene.RemoveNode(getattr(registered._shown.session.history, what))
    process_events(0.2)
    assert registered._shown.session is None and not registered.ui.iterationSlider.enabled
    assert not registered._following.inverseButton.enabled
    registered._evaluation.update()
    assert dialogs == []


def test_another_output_transform_shows_its_own_iterations(registered, engine):
    first = registered._parameterNode.outputTransform
    registered.ui.outputTransformSelector.setCurrentNode(None)
    assert not registered.ui.iterationSlider.enabled
    engine(steps=3)
    pause_between_clicks()
    registered.ui.registerButton.click()
    wait_for(lambda: not registered._registration.running)
    assert registered.ui.iterationSlider.maximum == 2
    registered.ui.outputTransformSelector.setCurrentNode(first)
    assert registered.ui.iterationSlider.maximum == 5


def test_leaving_the_module_stops_what_moves(registered):
    registered.ui.playButton.click()
    registered.ui.flickerButton.click()
    registered.exit()
    assert not registered.ui.playButton.checked and not registered.ui.flickerButton.checked
    registered.enter()
    assert registered.ui.iterationSlider.maximum == 5


def test_a_new_registration_starts_from_a_clean_view(registered, engine):
    registered.ui.gridButton.click()
    registered.ui.strengthSlider.setValue(0.2)
    engine(fail={2: RuntimeError("out of luck")})
    pause_between_clicks()
    registered.ui.registerButton.click()
    wait_for(lambda: not registered._registration.running)
    assert not registered.ui.gridButton.checked and registered.ui.strengthSlider.value == 1
    assert registered._shown.session.strength == 1


def test_the_grid_is_drawn_near_the_lungs_in_place_of_slicers_own(registered):
    def models():
        found = slicer.util.getNodesByClass("vtkMRMLModelNode")
        return [node for node in found if " grid " in node.GetName()]

    ui, transform = registered.ui, registered._shown.session.history.transform
    ui.gridButton.click()
    assert transform.GetDisplayNode().GetVisibility()  # at once, until the other is made
    wait_for(lambda: len(models()) == 3, 30)
    assert not transform.GetDisplayNode().GetVisibility()
    assert all(node.GetParentTransformNode() is transform for node in models())
    ui.arrowsButton.click()
    assert not models() and transform.GetDisplayNode().GetVisibility()
    ui.gridButton.click()
    ui.gridButton.click()  # off again before it was made
    process_events(0.5)
    assert not models() and not transform.GetDisplayNode().GetVisibility()


def test_the_grid_near_the_lungs_bends_as_far_as_the_picture_below_it(registered):
    preview = registered._shown.session.preview.volume
    registered.ui.strengthSlider.setValue(0.5)
    registered.ui.gridButton.click()
    wait_for(lambda: registered._iterations._grid is not None, 30)
    for strength in (0.5, 0.2, 1.0):
        registered.ui.strengthSlider.setValue(strength)
        above = preview.GetParentTransformNode()
        assert all(
            model.GetParentTransformNode() is above for model in registered._iterations._grid.models
        )


def drawn():
    """The transforms that are drawn in the slices, by the mode."""
    found = {}
    for node in slicer.util.getNodesByClass("vtkMRMLTransformDisplayNode"):
        if node.GetVisibility() and node.GetVisibility2D():
            found.setdefault(node.GetVisualizationMode(), []).append(node.GetDisplayableNode())
    return found


@pytest.mark.parametrize("mode", ["arrows", "grid"])
def test_what_slicer_draws_is_as_strong_as_the_picture_below_it(registered, mode):
    """Its own grid is drawn where no lungs are known, such as in a scene that was loaded."""
    ui, session = registered.ui, registered._shown.session
    session.lungs = None
    name = {"arrows": "VIS_MODE_GLYPH", "grid": "VIS_MODE_GRID"}[mode]
    drawn_as = getattr(slicer.vtkMRMLTransformDisplayNode, name)
    ui.strengthSlider.setValue(0.5)
    getattr(ui, mode + "Button").click()
    for strength in (0.5, 0.2, 1.0, 0.7):
        ui.strengthSlider.setValue(strength)
        above = session.preview.volume.GetParentTransformNode()
        assert drawn() == {drawn_as: [above]}
        assert (above is session.history.transform) == (strength == 1)
    session.history.transform.GetDisplayNode().SetGlyphSpacingMm(33)  # in the Transforms module
    ui.strengthSlider.setValue(0.5)
    (above,) = drawn()[drawn_as]
    assert above.GetDisplayNode().GetGlyphSpacingMm() == 33
    assert not above.GetDisplayNode().GetSaveWithScene()
    getattr(ui, mode + "Button").click()
    assert drawn() == {}


def test_side_by_side_the_grid_is_drawn_in_the_planes_that_both_views_cut(registered):
    views = {view.GetLayoutName(): view for view in slicer.util.getNodesByClass("vtkMRMLSliceNode")}
    views["Red"].SetOrientation("Axial")
    views["Yellow"].SetOrientation("Sagittal")
    registered.ui.gridButton.click()
    wait_for(lambda: registered._iterations._grid is not None, 30)
    registered.ui.sideBySideButton.click()
    drawn = [
        [model.GetDisplayNode().IsDisplayableInView(views[name].GetID()) for name in views]
        for model in registered._iterations._grid.models
    ]
    at = list(views).index
    assert [[row[at(name)] for name in ("Red", "Yellow")] for row in drawn] == [
        [True, True],
        [True, True],
        [False, False],
    ]
