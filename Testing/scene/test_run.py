"""In the background: the scene follows each step, and is put back where nothing comes of it."""

import threading
import time
from functools import partial

import pytest
import slicer
from L2ORegistrationLib.job import Failed, Finished
from L2ORegistrationLib.scene.run import Run
from L2ORegistrationLib.scene.settings import Settings


def test_the_scene_follows_step_by_step(scans, kit, scene):
    gate = threading.Semaphore(0)
    one = Run(Settings(*scans), factory=partial(kit.Trial, gate=gate))
    before = scene.GetNumberOfNodes()
    one.poll()
    assert scene.GetNumberOfNodes() == before and one.session is None
    for done in range(1, 4):
        gate.release()
        while not one.poll():
            time.sleep(0.001)
        assert len(one.session.history) == done
        assert one.session.history.index == done - 1
    assert one.session.preview.volume.GetName() == "moving warped (preview)"
    one.cancel()
    gate.release(9)
    (last,) = [event for event in kit.finished(one) if isinstance(event, Finished)]
    assert last.cancelled and one.outcome.cancelled
    assert one.session.history.result == one.session.history.index


def test_views_show_the_preview_and_get_back_what_they_showed(scans, kit, scene, add_volume):
    composite = scene.AddNode(slicer.vtkMRMLSliceCompositeNode())
    composite.SetBackgroundVolumeID(scans[1].GetID())
    gate = threading.Semaphore(2)
    one = Run(Settings(*scans), factory=partial(kit.Trial, gate=gate, fail_at=2))
    while one.session is None:
        one.poll()
    assert composite.GetBackgroundVolumeID() == scans[0].GetID()
    assert composite.GetForegroundVolumeID() == one.session.preview.volume.GetID()
    gate.release(9)
    assert isinstance(kit.finished(one)[-1], Failed)
    assert composite.GetBackgroundVolumeID() == scans[1].GetID()
    assert composite.GetForegroundVolumeID() is None


@pytest.mark.parametrize("which", ["fixed", "moving", "transform", "browser"])
def test_a_deleted_node_ends_it_cleanly(scans, kit, scene, which):
    gate = threading.Semaphore(2)
    before = [*kit.node_ids(scene), "and one more"]
    one = Run(Settings(*scans), factory=partial(kit.Trial, gate=gate))
    while one.session is None or len(one.session.history) < 2:
        one.poll()
    history = one.session.history
    node = {
        "fixed": scans[0],
        "moving": scans[1],
        "transform": history.transform,
        "browser": history.browser,
    }[which]
    scene.RemoveNode(node)
    (event,) = one.poll()
    gate.release(9)
    assert isinstance(event, Failed) and "was taken from the scene" in event.message
    assert not one.active
    assert set(kit.node_ids(scene)) < set(before)


def test_closing_the_scene_ends_it_cleanly(scans, kit, scene):
    gate = threading.Semaphore(2)
    one = Run(Settings(*scans), factory=partial(kit.Trial, gate=gate))
    while one.session is None:
        one.poll()
    scene.Clear(1)
    (event,) = one.poll()
    gate.release(9)
    assert isinstance(event, Failed) and not one.active
    assert one.poll() == []


def test_cancelled_before_the_first_step_nothing_is_there(scans, kit, scene):
    gate = threading.Semaphore(0)
    before = kit.node_ids(scene)
    one = Run(Settings(*scans), factory=partial(kit.Trial, gate=gate, fail_at=0))
    one.cancel()
    gate.release(9)
    kit.finished(one)
    assert kit.node_ids(scene) == before and one.outcome is None
