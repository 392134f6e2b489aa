"""What the panel picks and follows by itself, and why the Register button is disabled."""

import numpy as np
import pytest
import slicer
import vtk
from fixtures import process_events, wait_for
from L2ORegistrationLib.engine import packaged
from L2ORegistrationLib.panel import picking
from L2ORegistrationLib.scene import settings


def add(kind, name):
    return slicer.mrmlScene.AddNewNodeByClass(kind, name)


def volume(name, shape=(6, 6, 6)):
    node = add("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.zeros(shape, np.float32))
    return node


def markups(name, count):
    node = add("vtkMRMLMarkupsFiducialNode", name)
    slicer.util.updateMarkupsControlPointsFromArray(node, np.arange(3.0 * count).reshape(-1, 3))
    return node


def choose(panel, **nodes):
    """Choose nodes in the selectors of these names, as the user would."""
    for name, node in nodes.items():
        getattr(panel.ui, name + "Selector").setCurrentNode(node)


def reason(panel):
    """What the panel says of a disabled Register button; "" where it is enabled."""
    process_events()
    assert panel.ui.registerButton.enabled == (panel.ui.hintLabel.text == "")
    if panel.ui.hintLabel.text:
        assert panel.ui.registerButton.toolTip == panel.ui.hintLabel.text
    return panel.ui.hintLabel.text


def test_the_panel_opens_empty(panel):
    assert reason(panel) == "Choose a fixed volume."
    assert not panel.ui.progressBar.visible
    assert panel.ui.iterationsHintLabel.visible and not panel.ui.iterationSlider.enabled


def test_methods_and_starts_are_those_of_the_console_with_the_same_defaults(panel, phantom):
    chosen, default = panel._inputs.settings(), settings.Settings()
    assert (chosen.method, chosen.start) == (default.method, default.start)
    node = panel._parameterNode
    assert {one.name for one in type(node.method)} == set(settings.METHODS)
    assert {one.name for one in type(node.start)} == set(settings.STARTS)
    assert panel.ui.startComboBox.currentText == "Lungs, then a search"
    assert panel.ui.methodComboBox.currentText == "L2O"


def test_what_has_no_weights_is_marked_and_cannot_start(panel, phantom):
    node = panel._parameterNode
    for combo, choice in ((panel.ui.methodComboBox, "method"), (panel.ui.startComboBox, "start")):
        for one in type(getattr(node, choice)):
            trained = packaged.has_weights(one.name)
            assert one.label().endswith(" (not trained)") != trained
            assert combo.findText(one.label()) >= 0
            if not trained:
                setattr(node, choice, one)
                assert f"The {choice} '{one.name}' comes without trained weights" in reason(panel)
        setattr(node, choice, type(getattr(node, choice))[getattr(settings.Settings(), choice)])
    assert reason(panel) == ""


def test_weights_are_chosen_only_for_methods_that_have_some(panel, phantom):
    panel._parameterNode.model = "l2o"
    panel.ui.methodComboBox.setCurrentText("Gauss-Newton")
    process_events()
    assert not panel.ui.modelComboBox.enabled and panel._inputs.settings().model is None
    panel.ui.methodComboBox.setCurrentText("L2O")
    process_events()
    assert panel.ui.modelComboBox.enabled and panel._inputs.settings().model == "l2o"


def test_weights_in_a_scene_of_an_earlier_version_are_shown_under_their_new_name(panel):
    panel._parameterNode.model = "pyramid"
    panel.exit()
    panel.enter()
    assert panel.ui.modelComboBox.currentText == "l2o"


@pytest.mark.parametrize(
    "method, start, shown",
    [("trust", "search", ("l2o", "search")), ("of somebody", "elsewhere", ("l2o", "search"))],
)
def test_a_scene_with_a_method_that_is_unknown_here_opens(panel, method, start, shown):
    raw = panel._parameterNode.parameterNode
    panel.exit()
    raw.SetParameter("method", method)
    raw.SetParameter("start", start)
    panel.enter()
    assert (panel._parameterNode.method.name, panel._parameterNode.start.name) == shown
    assert reason(panel) == "Choose a fixed volume."


def test_volumes_and_landmarks_are_picked_by_name(panel, phantom):
    assert reason(panel) == ""
    node = panel._parameterNode
    assert (node.fixedVolume, node.movingVolume) == (phantom["fixed"], phantom["moving"])
    assert node.fixedLandmarks is phantom["fixedLandmarks"]
    assert node.movingLandmarks is phantom["movingLandmarks"]
    assert panel.ui.fixedVolumeSelector.currentNode() is phantom["fixed"]


def test_volumes_without_telling_names_are_picked_in_order(panel):
    first = volume("CT 1")
    assert reason(panel) == "Choose a moving volume."
    second = volume("CT 2")
    assert reason(panel) == ""
    node = panel._parameterNode
    assert (node.fixedVolume, node.movingVolume) == (first, second)


def test_label_maps_are_not_picked(panel):
    label = add("vtkMRMLLabelMapVolumeNode", "moving lungs")
    slicer.util.updateVolumeFromArray(label, np.zeros((6, 6, 6), np.uint8))
    assert reason(panel) == "Choose a fixed volume."


def test_what_the_user_chose_stays(panel, phantom):
    process_events()
    choose(panel, fixedVolume=phantom["moving"], movingVolume=phantom["fixed"])
    volume("a fixed one")
    assert reason(panel) == ""
    assert panel._parameterNode.fixedVolume is phantom["moving"]


def same_volume(panel, phantom):
    choose(panel, movingVolume=phantom["fixed"])
    return "Fixed and moving volume are the same: choose two different volumes."


def no_image(panel, phantom):
    panel._parameterNode.fixedVolume = add("vtkMRMLScalarVolumeNode", "hollow")
    return "'hollow' has no image: load it again or choose another volume."


def non_linear_parent(panel, phantom):
    bend = add("vtkMRMLTransformNode", "bend")
    bend.SetAndObserveTransformFromParent(vtk.vtkThinPlateSplineTransform())
    phantom["moving"].SetAndObserveTransformNodeID(bend.GetID())
    panel._parameterNode.parameterNode.Modified()
    return "non-linear"


def sheared(panel, phantom):
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 1, 0.3)
    tilt = add("vtkMRMLLinearTransformNode", "tilt")
    tilt.SetMatrixTransformToParent(matrix)
    phantom["fixed"].SetAndObserveTransformNodeID(tilt.GetID())
    panel._parameterNode.parameterNode.Modified()
    return "shear"


def half_the_landmarks(panel, phantom):
    choose(panel, movingLandmarks=None)
    return "Choose the moving landmarks, too, or none at all."


def no_landmarks_placed(panel, phantom):
    choose(panel, fixedLandmarks=markups("none yet", 0))
    return "'none yet' has no landmarks: place some in the image first."


def landmarks_that_do_not_match(panel, phantom):
    fixed, moving = markups("three", 3), markups("five", 5)
    for node, name in ((fixed, "here"), (moving, "there")):
        for index in range(node.GetNumberOfControlPoints()):
            node.SetNthControlPointLabel(index, f"{name} {'abcde'[index]}")
    choose(panel, fixedLandmarks=fixed, movingLandmarks=moving)
    return "There are 3 fixed but 5 moving landmarks"


def start_without_landmarks(panel, phantom):
    choose(panel, fixedLandmarks=None, movingLandmarks=None)
    panel.ui.startComboBox.setCurrentIndex(panel.ui.startComboBox.findText("Landmarks"))
    assert panel._parameterNode.start.name == "landmarks"
    return "Choose fixed and moving landmarks to start from them."


def output_is_the_initial_transform(panel, phantom):
    both = add("vtkMRMLTransformNode", "both")
    choose(panel, initialTransform=both, outputTransform=both)
    return "The output transform is the initial one: choose another output."


def fixed_under_the_output(panel, phantom):
    output = add("vtkMRMLTransformNode", "output")
    phantom["fixed"].SetAndObserveTransformNodeID(output.GetID())
    choose(panel, outputTransform=output)
    return "The fixed volume is under the output transform 'output': take it out."


def output_under_another(panel, phantom):
    output, parent = add("vtkMRMLTransformNode", "output"), add("vtkMRMLTransformNode", "parent")
    output.SetAndObserveTransformNodeID(parent.GetID())
    choose(panel, outputTransform=output)
    return "The output transform 'output' is under the transform 'parent': take it out"


def moving_under_the_initial(panel, phantom):
    rough = add("vtkMRMLLinearTransformNode", "rough")
    phantom["moving"].SetAndObserveTransformNodeID(rough.GetID())
    choose(panel, initialTransform=rough)
    return "The moving volume is already under the initial transform 'rough': take it out"


def output_overwrites_an_input(panel, phantom):
    choose(panel, outputVolume=phantom["moving"])
    return "The output volume would overwrite an input: choose another."


def outputs_are_the_same(panel, phantom):
    output = add("vtkMRMLScalarVolumeNode", "output")
    choose(panel, outputVolume=output, outputJacobian=output)
    return "The warped volume and the Jacobian need two different outputs."


REASONS = [
    *(same_volume, no_image, non_linear_parent, sheared, half_the_landmarks, no_landmarks_placed),
    *(landmarks_that_do_not_match, start_without_landmarks, output_is_the_initial_transform),
    *(fixed_under_the_output, output_under_another, moving_under_the_initial),
    *(output_overwrites_an_input, outputs_are_the_same),
]


def test_a_mask_that_makes_slicer_stand_still_is_told_before_the_click(panel, phantom):
    process_events()
    node = add("vtkMRMLSegmentationNode", "lungs")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    ball = vtk.vtkSphereSource()
    ball.Update()
    node.AddSegmentFromClosedSurfaceRepresentation(ball.GetOutput(), "left")
    panel.ui.fixedMaskSelector.setCurrentNode(node)
    assert panel.ui.hintLabel.text.startswith("'lungs' has no label map, and Slicer stands still")
    assert panel.ui.registerButton.enabled
    panel.ui.fixedMaskSelector.setCurrentNode(None)
    assert panel.ui.hintLabel.text == "" and panel.ui.hintLabel.isHidden()


@pytest.mark.parametrize("wrong", REASONS, ids=lambda wrong: wrong.__name__)
def test_a_disabled_button_says_why(panel, phantom, wrong):
    assert reason(panel) == ""
    expected = wrong(panel, phantom)
    found = reason(panel)
    assert expected in found and found.endswith(".")


def test_the_initial_transform_may_be_linear(panel, phantom):
    rough = add("vtkMRMLLinearTransformNode", "rough")
    process_events()
    choose(panel, initialTransform=rough)
    assert panel._inputs.settings().initialTransform is rough and reason(panel) == ""


def test_a_segment_can_be_a_mask(panel, phantom):
    lungs = add("vtkMRMLSegmentationNode", "lungs")
    left, right = (lungs.GetSegmentation().AddEmptySegment("", name) for name in ("left", "right"))
    process_events()
    selector = panel.ui.fixedSegmentSelector
    assert not selector.isVisibleTo(panel.parent)
    choose(panel, fixedMask=lungs)
    assert panel._inputs.settings().fixedMask is lungs  # all segments
    assert not selector.isHidden()
    selector.setCurrentSegmentID(right)
    assert panel._inputs.settings().fixedMask == (lungs, right)
    other = add("vtkMRMLSegmentationNode", "other")
    other.GetSegmentation().AddEmptySegment("another", "another")
    choose(panel, fixedMask=other)
    assert panel._inputs.settings().fixedMask is other  # not the segment of that name order
    choose(panel, fixedMask=None)
    assert panel._inputs.settings().fixedMask is None and selector.isHidden()


def test_choices_survive_leaving_and_coming_back(panel, phantom):
    process_events()
    panel.ui.methodComboBox.setCurrentText("Adam")
    panel.ui.iterationsSpinBox.setValue(7)
    panel.exit()
    panel.enter()
    settings = panel._inputs.settings()
    assert (settings.method, settings.iterations) == ("adam", 7)
    panel.ui.iterationsSpinBox.setValue(0)
    assert panel._inputs.settings().iterations is None


def test_a_list_belongs_to_the_volume_with_the_longest_name(scene):
    """Slicer calls the second volume of a name CT_1: "CT_1 landmarks" are not those of CT."""
    volumes = [volume("CT"), volume("CT_1")]
    second = markups("CT_1 landmarks", 3)
    assert picking.pick_landmarks(*volumes) == [None, second]
    first = markups("CT landmarks", 3)
    assert picking.pick_landmarks(*volumes) == [first, second]
    assert picking.pick_landmarks(None, volumes[1]) == [None, second]


def test_one_list_for_both_volumes_is_refused(panel, phantom):
    process_events()
    panel._parameterNode.movingLandmarks = panel._parameterNode.fixedLandmarks
    process_events()
    assert not panel.ui.registerButton.enabled
    assert "are the same list" in panel.ui.hintLabel.text


def test_the_preview_is_not_picked_where_a_volume_goes(registered, phantom):
    slicer.mrmlScene.RemoveNode(phantom["moving"])
    registered._inputs.pick()
    assert registered._parameterNode.movingVolume is None


def test_the_checkerboard_is_no_scan(registered, phantom):
    registered.ui.checkerboardButton.click()
    board = slicer.util.getNode("Checkerboard")
    wait_for(lambda: board.GetImageData() is not None)
    slicer.mrmlScene.RemoveNode(phantom["moving"])
    registered._inputs.pick()
    assert registered._parameterNode.movingVolume is None


def test_landmarks_that_the_user_took_out_stay_out(panel, phantom):
    process_events()
    node = panel._parameterNode
    assert node.fixedLandmarks and node.movingLandmarks
    node.fixedLandmarks = node.movingLandmarks = None
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "something else")
    process_events(0.05)
    panel.exit()
    panel.enter()
    assert node.fixedLandmarks is None is node.movingLandmarks


def test_landmarks_are_followed_while_they_are_placed_and_moved(registered):
    """A list without points is refused until it has them; errors follow a point that is dragged."""
    fixed, moving = registered._shown.landmarks()
    points = slicer.util.arrayFromMarkupsControlPoints(moving)
    moving.RemoveAllControlPoints()
    process_events()
    assert not registered.ui.registerButton.enabled
    for k, point in enumerate(points):
        moving.AddControlPoint(point, fixed.GetNthControlPointLabel(k))
    process_events()
    assert registered.ui.registerButton.enabled
    wait_for(lambda: registered._evaluation._evaluation is not None)
    before = registered._evaluation._evaluation.summary["after"]["max"]
    moving.SetNthControlPointPosition(0, *(points[0] + 80))
    moving.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    wait_for(lambda: registered._evaluation._evaluation.summary["after"]["max"] > before + 50)


def test_many_points_at_once_are_looked_at_once(panel, phantom, monkeypatch):
    """As a script adds or somebody pastes them: a thousand would take a minute one by one."""
    process_events()
    looked, look = [], panel._registration.refresh
    monkeypatch.setattr(panel._registration, "refresh", lambda: looked.append(1) or look())
    for k in range(20):
        panel._parameterNode.movingLandmarks.AddControlPoint((k, 0, 0))
    process_events()
    assert len(looked) == 1
