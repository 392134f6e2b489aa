"""From the click on Register to the result: progress, live iterations, cancelling, failing."""

import threading
import time

import pytest
import slicer
from fixtures import SteeredEngine, grid_magnitude, pause_between_clicks, process_events, wait_for
from L2ORegistrationLib import job
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.scene import run as scene_run
from L2ORegistrationLib.scene import transforms, volumes
from L2ORegistrationLib.scene.history import History


def node_ids():
    scene = slicer.mrmlScene
    return {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}


def finish(panel):
    wait_for(lambda: not panel._registration.running)


def test_three_clicks(panel, phantom, engine, dialogs):
    process_events()  # the volumes were picked by themselves
    steered = engine()
    panel.ui.registerButton.click()
    finish(panel)
    assert panel.ui.hintLabel.text.startswith("Done in 2 s. Iteration 4 is the result. Mean")
    transform = panel._parameterNode.outputTransform
    assert transform.GetName() == "CT moving to CT fixed"
    true = steered.seen[-1].field
    assert grid_magnitude(transform) == pytest.approx(abs(true.array).max(), abs=1e-3)
    assert steered.arguments["fixed"].grid.matches(steered.pair.fixed.grid)
    assert dialogs == []


def test_the_verdict_stays_as_long_as_its_output_is_chosen(registered):
    said = registered.ui.hintLabel.text
    assert "Verdict: good." in said
    registered.exit()
    registered.enter()
    assert registered.ui.hintLabel.text == said
    output = registered._parameterNode.outputTransform
    for chosen, expected in ((None, ""), (output, said)):
        registered.ui.outputTransformSelector.setCurrentNode(chosen)
        assert registered.ui.hintLabel.text == expected
    registered._shown.session.history.result = 3  # as Keep this iteration does
    registered._registration.refresh()
    assert registered.ui.hintLabel.text == ""


def test_every_iteration_is_shown_live(panel, phantom, engine):
    steered = engine(free=False)
    panel.ui.registerButton.click()
    process_events(0.1)
    assert panel.ui.registerButton.text == "Cancel"
    assert panel.ui.progressBar.visible and panel.ui.progressBar.maximum == 0  # busy
    assert panel.ui.progressLabel.text.startswith("Preparing")
    shown = []
    for index in range(6):
        steered.go()
        wait_for(lambda: panel._shown.session and len(panel._shown.session.history) == index + 1)  # noqa: B023
        shown.append(grid_magnitude(panel._shown.session.history.transform))
        assert panel.ui.iterationSlider.value == panel.ui.iterationSlider.maximum == index
        if index < 5:
            assert panel.ui.progressBar.value == index and panel.ui.progressBar.maximum == 5
            begun = f"Iteration {index - 1} of 4 \u00b7 dissim" if index else "Preparing"
            assert panel.ui.progressLabel.text.startswith(begun)
            assert "elapsed" in panel.ui.progressLabel.text
        composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
        assert composite.GetBackgroundVolumeID() == phantom["fixed"].GetID()
        assert composite.GetForegroundVolumeID() == panel._shown.session.preview.volume.GetID()
        assert panel._shown.session.curve.table.GetNumberOfRows() == index + 1
    assert shown[0] == 0 and shown == sorted(set(shown))
    finish(panel)
    assert not panel.ui.progressBar.visible


def test_the_worker_gets_on_while_the_window_waits_for_events(panel, phantom, engine, monkeypatch):
    """The worker wants Python's lock 3000 times; the event loop alone gives it away some 50 times
    a second, so that this takes a minute, and a second where the lock is lent."""

    class Busy(SteeredEngine):
        def __call__(self, **arguments):
            for _ in range(3000):
                time.sleep(1e-6)
            return super().__call__(**arguments)

    busy = Busy(engine().pair)
    monkeypatch.setattr(panel.logic, "start", lambda s: scene_run.Run(s, factory=busy))
    panel.ui.registerButton.click()
    wait_for(lambda: not panel._registration.running, seconds=20)
    assert panel.ui.hintLabel.text.startswith("Done in")


def test_clicks_that_wait_in_the_queue_are_one(panel, phantom, engine, monkeypatch):
    """Slicer's wait cursor handles events, so that a second click comes within the first."""
    steered = engine(free=False)
    started = []

    def start(settings):
        panel.ui.registerButton.click()
        started.append(scene_run.Run(settings, factory=steered))
        return started[-1]

    monkeypatch.setattr(panel.logic, "start", start)
    panel.ui.registerButton.click()
    panel.ui.registerButton.click()
    process_events(0.1)
    assert len(started) == 1 and panel._registration.running
    assert panel.ui.registerButton.text == "Cancel" and panel.ui.registerButton.enabled
    steered.go(9)
    finish(panel)
    assert not panel._registration._run and len(started) == 1


def test_remaining_time_appears(panel, phantom, engine):
    steered = engine(free=False)
    panel.ui.registerButton.click()
    steered.go(4)
    wait_for(lambda: "left" in panel.ui.progressLabel.text)
    steered.go(2)
    finish(panel)


def test_cancel_keeps_the_best_so_far(panel, phantom, engine, dialogs):
    steered = engine(free=False)
    panel.ui.registerButton.click()
    steered.go(3)
    wait_for(lambda: panel._shown.session and len(panel._shown.session.history) == 3)
    pause_between_clicks()
    panel.ui.registerButton.click()
    assert panel.ui.registerButton.text == "Cancelling..."
    assert not panel.ui.registerButton.enabled
    steered.go()  # the iteration that was in progress
    finish(panel)
    assert panel.ui.hintLabel.text.startswith("Cancelled. Iteration 2 is the result.")
    assert panel.ui.registerButton.text == "Register" and panel.ui.registerButton.enabled
    assert grid_magnitude(panel._parameterNode.outputTransform) > 0
    assert dialogs == []


def test_cancel_before_the_first_iteration_changes_nothing(panel, phantom, engine, monkeypatch):
    before = node_ids()

    class Dawdling(SteeredEngine):
        def __call__(self, **arguments):
            time.sleep(1.0)
            return super().__call__(**arguments)

    steered = Dawdling(engine().pair, free=False)
    monkeypatch.setattr(panel.logic, "start", lambda s: scene_run.Run(s, factory=steered))
    panel.ui.registerButton.click()
    pause_between_clicks()
    panel.ui.registerButton.click()
    steered.go()
    finish(panel)
    assert panel.ui.hintLabel.text.startswith("Cancelled: nothing was changed.")
    assert node_ids() == before


@pytest.mark.parametrize("at", [0, 3])
def test_failure_leaves_the_scene_as_it_was(panel, phantom, engine, dialogs, at):
    process_events()
    before = node_ids()
    engine(fail={at: RuntimeError("out of luck")})
    panel.ui.registerButton.click()
    finish(panel)
    assert dialogs == ["The registration failed (RuntimeError: out of luck)."]
    assert panel.ui.hintLabel.text.startswith("The last registration failed")
    assert node_ids() == before
    assert not panel.ui.iterationSlider.enabled and panel.ui.registerButton.enabled


def test_what_the_user_did_wrong_is_said_in_their_words(panel, phantom, engine, dialogs):
    engine(fail={0: InputError("The mask is empty: draw it or leave it automatic.")})
    panel.ui.registerButton.click()
    finish(panel)
    assert dialogs == ["The mask is empty: draw it or leave it automatic."]


def test_failure_after_success_shows_the_earlier_result_again(registered, engine, dialogs):
    magnitude = grid_magnitude(registered._parameterNode.outputTransform)
    engine(fail={2: RuntimeError("out of luck")})
    pause_between_clicks()
    registered.ui.registerButton.click()
    finish(registered)
    assert len(dialogs) == 1
    assert registered.ui.iterationSlider.maximum == 5 and registered.ui.iterationSlider.enabled
    assert grid_magnitude(registered._parameterNode.outputTransform) == magnitude


def test_register_again_replaces_the_iterations(registered, engine):
    engine(steps=4)
    pause_between_clicks()
    registered.ui.registerButton.click()
    finish(registered)
    assert registered.ui.iterationSlider.maximum == 3
    assert len(slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")) == 1


def test_inputs_that_cannot_be_read_are_refused_at_the_click(panel, phantom, engine, dialogs):
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Nothing")
    engine()
    panel._parameterNode.fixedMask = empty
    panel.ui.registerButton.click()
    process_events()
    assert dialogs == ["The segmentation 'Nothing' has no segments: add one first."]
    assert not panel._registration.running and panel.ui.registerButton.text == "Register"


def test_deleting_an_input_stops_the_run(panel, phantom, engine, dialogs):
    steered = engine(free=False)
    panel.ui.registerButton.click()
    steered.go(2)
    wait_for(lambda: panel._shown.session and len(panel._shown.session.history) == 2)
    slicer.mrmlScene.RemoveNode(phantom["moving"])
    finish(panel)
    assert dialogs == ["The registration stopped: 'CT moving' was taken from the scene."]
    assert slicer.util.getNodesByClass("vtkMRMLSequenceNode") == []
    steered.go(9)


def test_closing_the_scene_stops_the_run(panel, phantom, engine, dialogs):
    steered = engine(free=False)
    panel.ui.registerButton.click()
    steered.go(2)
    wait_for(lambda: panel._shown.session and len(panel._shown.session.history) == 2)
    slicer.mrmlScene.Clear()
    steered.go(9)
    process_events(0.1)
    assert not panel._registration.running and dialogs == []
    assert panel.ui.registerButton.text == "Register"
    assert panel.ui.hintLabel.text == "Choose a fixed volume."
    assert slicer.util.getNodesByClass("vtkMRMLTransformNode") == []


def end_in_another_module(panel, engine):
    """A registration that ends while another module is open."""
    process_events()
    steered = engine(free=False)
    panel.ui.registerButton.click()
    steered.go(3)
    wait_for(lambda: panel._shown.session and len(panel._shown.session.history) == 3)
    panel.parent.isEntered = False
    panel.exit()
    steered.go(9)
    finish(panel)


def test_a_run_goes_on_while_another_module_is_open_and_tells_afterwards(
    panel, phantom, engine, dialogs
):
    end_in_another_module(panel, engine)
    assert dialogs == []
    panel.parent.isEntered = True
    panel.enter()
    assert panel.ui.hintLabel.text.startswith("Done in")
    assert panel._parameterNode.outputTransform is not None
    assert panel.ui.iterationSlider.enabled and panel.ui.iterationSlider.maximum == 5


def test_of_a_scene_that_was_closed_meanwhile_nothing_is_told(panel, phantom, engine):
    end_in_another_module(panel, engine)
    slicer.mrmlScene.Clear(0)
    panel.parent.isEntered = True
    panel.enter()
    assert panel.ui.hintLabel.text == "Choose a fixed volume."


def test_cancelling_what_would_replace_a_result_brings_that_back(registered, engine, dialogs):
    before, count = grid_magnitude(registered._parameterNode.outputTransform), len(node_ids())
    steered = engine(steps=9, free=False)
    pause_between_clicks()
    registered.ui.registerButton.click()
    steered.go(3)
    wait_for(lambda: registered.ui.iterationSlider.maximum == 2)
    pause_between_clicks()
    registered.ui.registerButton.click()
    steered.go(9)
    finish(registered)
    assert registered.ui.hintLabel.text.startswith("Cancelled: nothing was changed.")
    assert registered.ui.iterationSlider.maximum == 5 and dialogs == []
    assert grid_magnitude(registered._parameterNode.outputTransform) == pytest.approx(before)
    assert len(node_ids()) == count  # the preview is a new one


def test_a_deleted_output_takes_its_iterations_with_it(registered):
    slicer.mrmlScene.RemoveNode(registered._parameterNode.outputTransform)
    process_events()
    for kind in ("vtkMRMLTransformNode", "vtkMRMLSequenceNode", "vtkMRMLSequenceBrowserNode"):
        assert slicer.util.getNodesByClass(kind) == []
    assert registered._shown.session is None and not registered.ui.iterationSlider.enabled
    assert registered.ui.registerButton.enabled


def test_an_output_deleted_with_others_takes_its_iterations_with_it(registered):
    """As a folder in the Data module is deleted, in one batch."""
    scene = slicer.mrmlScene
    scene.StartState(scene.BatchProcessState)
    scene.RemoveNode(registered._parameterNode.outputTransform)
    scene.EndState(scene.BatchProcessState)
    process_events()
    for kind in ("vtkMRMLTransformNode", "vtkMRMLSequenceNode", "vtkMRMLSequenceBrowserNode"):
        assert slicer.util.getNodesByClass(kind) == []
    assert registered._shown.session is None and registered.ui.registerButton.enabled


def test_an_output_deleted_while_another_is_made_takes_its_iterations_with_it(
    registered, engine, dialogs
):
    earlier = registered._parameterNode.outputTransform
    registered._parameterNode.outputTransform = None
    steered = engine(free=False)
    pause_between_clicks()
    registered.ui.registerButton.click()
    steered.go(3)
    wait_for(lambda: registered._shown.session and len(registered._shown.session.history) == 3)
    slicer.mrmlScene.RemoveNode(earlier)
    steered.go(9)
    finish(registered)
    made = registered._parameterNode.outputTransform
    assert slicer.util.getNodesByClass("vtkMRMLTransformNode") == [made] and dialogs == []
    assert len(slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")) == 1


def test_a_second_pair_leaves_the_first_result_alone(registered, phantom, pair, engine):
    first = registered._parameterNode.outputTransform
    phantom["movingLandmarks"].SetAndObserveTransformNodeID(first.GetID())
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT later")
    volumes.set_volume(other, pair.moving)
    registered._parameterNode.movingVolume = other
    registered._parameterNode.movingLandmarks = registered._parameterNode.fixedLandmarks = None
    before = grid_magnitude(first)
    engine(steps=4)
    pause_between_clicks()
    registered.ui.registerButton.click()
    finish(registered)
    second = registered._parameterNode.outputTransform
    assert second is not first and second.GetName() == "CT later to CT fixed"
    assert transforms.roles(first) == (phantom["fixed"], phantom["moving"])
    assert len(History.of(first)) == 6 and grid_magnitude(first) == before
    assert len(History.of(second)) == 4


def test_cancel_does_not_wait_for_the_work_of_another(panel, phantom, engine, monkeypatch):
    """As for a 4DCT that is registered: the run has not begun, and is taken back at once."""
    gate = threading.Event()
    job.Call(gate.wait)  # keeps the worker
    engine(free=False)
    panel.ui.registerButton.click()
    process_events(0.1)
    pause_between_clicks()
    panel.ui.registerButton.click()
    assert not panel._registration.running and panel.ui.registerButton.text == "Register"
    assert panel.ui.hintLabel.text == "Cancelled: nothing was changed."
    gate.set()


def test_cancelled_before_its_first_step_it_leaves_one_preview(registered):
    go = threading.Event()
    job.Call(go.wait, 20)
    before = node_ids()
    for _ in range(2):  # begin and cancel
        pause_between_clicks()
        registered.ui.registerButton.click()
    go.set()
    assert not registered._registration.running and len(node_ids()) == len(before)
    assert registered._shown.session.preview.volume.GetScene() is slicer.mrmlScene


def test_outputs_are_filled(panel, phantom, engine):
    process_events()
    for selector in (panel.ui.outputVolumeSelector, panel.ui.outputJacobianSelector):
        selector.combo.setCurrentIndex(selector.combo.count() - 1)  # "Create new ..."
        selector._onActivated(selector.combo.count() - 1)
    assert panel._parameterNode.outputVolume.GetName() == "Warped"
    engine()
    panel.ui.registerButton.click()
    finish(panel)
    shape = slicer.util.arrayFromVolume(phantom["fixed"]).shape
    warped = slicer.util.arrayFromVolume(panel._parameterNode.outputVolume)
    assert warped.shape == shape
    fixed, moving = (slicer.util.arrayFromVolume(phantom[role]) for role in ("fixed", "moving"))
    assert abs(warped - fixed).mean() < abs(moving - fixed).mean()
    jacobian = slicer.util.arrayFromVolume(panel._parameterNode.outputJacobian)
    assert 0 < jacobian.mean() < 2


def test_the_phantom_with_the_real_engine(panel, phantom, dialogs):
    """No part is steered here: the packaged weights, from the click to the table of errors."""
    process_events()
    panel.ui.iterationsSpinBox.setValue(2)  # per level, to be quick
    panel.ui.registerButton.click()
    wait_for(lambda: not panel._registration.running, seconds=120)
    assert dialogs == [] and panel.ui.hintLabel.text.startswith("Done in")
    errors = [metrics["error"] for metrics in panel._shown.session.history.metrics()]
    assert errors[panel._shown.session.history.result] < 0.4 * errors[0]  # voxels of 6 mm
    assert panel.ui.iterationSlider.maximum == len(errors) - 1 > 3
    description = panel._shown.session.history.description
    assert {"model", "device"} <= set(description)
    assert float(panel.ui.evaluationTable.item(0, 2).text()) < 0.4 * errors[0]
