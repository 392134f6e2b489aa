"""The panel's 4DCT section in a window: choose, run, cancel, close the scene."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import slicer
from fixtures import pause_between_clicks, process_events, wait_for
from L2ORegistrationLib import job
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.engine.verdict import Verdict
from L2ORegistrationLib.scene import browsers, transforms, volumes

GRID = Grid((12, 11, 10), (3.0, 3.0, 3.0))


class Slow:
    """The protocol of SequenceRegistration, a phase at each release of the gate."""

    total = 5
    gate = threading.Semaphore(0)

    def __init__(self, phases, reference, **others):
        self.phases, self.reference, self.fields = phases, reference, {}

    def __iter__(self):
        for index in range(1, self.total + 1):
            self.gate.acquire()
            phase = index % 4
            array = np.full((*GRID.shape, 3), phase, np.float32)
            self.fields[phase] = DisplacementField(array, GRID)
            yield SimpleNamespace(
                index=index, total=self.total, phase=phase, field=self.fields[phase], seconds=1.0
            )

    def result(self):
        whole = len(self.fields) == 4
        loops = {"there and round the cycle back": np.array([0.2, 0.4])} if whole else {}
        return SimpleNamespace(
            phases=self.phases,
            fields=self.fields,
            loops=loops,
            provenance={},
            cancelled=not whole,
            verdict="check",
            verdicts={1: Verdict("good"), 2: Verdict("check", ("Look at it.",))},
        )


@pytest.fixture
def breath(scene):
    """A browser of four small volumes."""
    rng = np.random.default_rng(0)
    loose = []
    for number in range(4):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"phase {number}")
        volumes.set_volume(node, Volume(rng.normal(size=GRID.shape).astype(np.float32), GRID))
        loose.append(node)
    return browsers.make_sequence(loose, "breath")


@pytest.fixture
def section(panel, breath, monkeypatch):
    """The section, opened on the browser, with an engine at the pace of the test."""
    found = panel._sequence
    monkeypatch.setattr(found, "_factory", Slow)
    monkeypatch.setattr(Slow, "gate", threading.Semaphore(0))
    found.widget.collapsed = False
    found.browserSelector.setCurrentNode(breath)
    process_events()
    return found


def test_without_a_browser_there_is_a_hint(panel):
    section = panel._sequence
    assert not section.button.enabled
    assert "at least three phases" in section.hint.text


def test_loose_phases_become_a_sequence_in_the_order_of_their_numbers(section, breath, dialogs):
    scene = slicer.mrmlScene
    loose = []
    for number in (10, 2, 1):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"T{number}")
        volumes.set_volume(node, Volume(np.full(GRID.shape, float(number), np.float32), GRID))
        loose.append(node)
    process_events(0.1)
    section.makeButton.click()
    assert "at least 3 phases" in dialogs[0]
    for node in loose:
        section.phasesSelector.setCheckState(node, 2)
    section.makeButton.click()
    assert not section.makeButton.enabled and not section.button.enabled
    wait_for(lambda: section.makeButton.enabled)
    made = section.browserSelector.currentNode()
    assert made not in (None, breath) and section.button.enabled
    assert "T1, T2, T10" in section.hint.text
    assert [v.array.mean() for v in browsers.phases_of(made)] == [1, 2, 10]
    assert all(node.GetScene() is scene for node in loose)


def test_closing_the_scene_while_a_sequence_is_made(section):
    for number in range(3):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"T{number}")
        volumes.set_volume(node, Volume(np.zeros(GRID.shape, np.float32), GRID))
        section.phasesSelector.setCheckState(node, 2)
    section.makeButton.click()
    slicer.mrmlScene.Clear(0)
    process_events(0.1)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSequenceNode") == 0
    assert section.makeButton.enabled and not section.button.enabled


def test_all_phases_with_one_progress_bar(section, breath):
    assert section.button.enabled and section.referenceBox.maximum == 3 and not section.hint.text
    section.button.click()
    assert section.running and section.button.text == "Cancel"
    Slow.gate.release(2)
    wait_for(lambda: section.progressBar.value == 2)
    assert section.hint.text.startswith("Phase 2 of 5")
    Slow.gate.release(5)
    wait_for(lambda: not section.running)
    assert "Done: 4 phases" in section.hint.text and "0.30 mm" in section.hint.text
    assert "Verdict: check.\nPhase 2: check. Look at it.\n" in section.hint.text
    assert section.button.text == "Register all phases"
    section.meanBox.setChecked(True)  # what is said stays until there is something else to say
    assert "Verdict: check." in section.hint.text
    section.browserSelector.setCurrentNode(None)
    assert "Verdict" not in section.hint.text


def test_cancel_keeps_the_finished_phases(section, breath):
    section.button.click()
    Slow.gate.release(1)
    wait_for(lambda: section.progressBar.value == 1)
    pause_between_clicks()
    section.button.click()
    assert section.button.text == "Cancelling..." and not section.button.enabled
    Slow.gate.release(5)
    wait_for(lambda: not section.running)
    assert "Cancelled" in section.hint.text
    image, done = browsers.proxy_of(breath), []
    for phase in range(1, 4):  # the player shows them, and the others without motion
        breath.SetSelectedItemNumber(phase)
        shown = transforms.field_of(image.GetParentTransformNode()).array
        assert np.allclose(shown, phase) or not shown.any()
        done += [phase] if shown.any() else []
    assert 1 in done and len(done) < 3


def test_cancelled_behind_the_work_of_another_it_ends_at_once(section):
    go = threading.Event()
    job.Call(go.wait, 20)
    section.button.click()
    pause_between_clicks()
    section.button.click()
    assert not section.running and section.button.text == "Register all phases"
    assert section.button.enabled and section.hint.text == "Cancelled: nothing was changed."
    go.set()


def test_the_chosen_device_is_used(panel, section, monkeypatch):
    given = []

    def make(**arguments):
        given.append(arguments["device"])
        return Slow(**arguments)

    monkeypatch.setattr(section, "_factory", make)
    panel._parameterNode.device = "cpu"
    section.button.click()
    Slow.gate.release(9)
    wait_for(lambda: not section.running)
    assert given == ["cpu"]


def test_the_iterations_of_a_pair_are_no_breath(registered):
    section = registered._sequence
    section.browserSelector.setCurrentNode(registered._shown.session.history.browser)
    assert not section.button.enabled and "at least three phases" in section.hint.text


def test_a_double_click_starts_and_does_not_cancel(section, breath):
    section.button.click()
    section.button.click()
    assert section.running and section.button.text == "Cancel"
    Slow.gate.release(9)
    wait_for(lambda: not section.running)
    assert section.hint.text.startswith("Done")


def test_closing_the_scene_ends_the_run(section, breath):
    section.button.click()
    Slow.gate.release(1)
    wait_for(lambda: section.progressBar.value == 1)
    slicer.mrmlScene.Clear(0)
    Slow.gate.release(5)
    process_events(0.2)
    assert not section.running and not section.button.enabled
