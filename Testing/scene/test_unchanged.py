"""Volumes that were hardened, moved or edited since their registration are not warped again."""

import threading
from functools import partial

import numpy as np
import pytest
import slicer
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.job import Failed
from L2ORegistrationLib.scene import transforms
from L2ORegistrationLib.scene.correction import Continuation
from L2ORegistrationLib.scene.following import images_of
from L2ORegistrationLib.scene.products import products_task
from L2ORegistrationLib.scene.run import Run
from L2ORegistrationLib.scene.session import Session
from L2ORegistrationLib.scene.settings import Settings


@pytest.fixture
def outcome(logic, scans):
    """A registration whose moving volume lies under a linear transform."""
    return logic.register(*scans)


def hardened(outcome, scene):
    """As 'Apply to' and Harden leave it: resampled through the transform."""
    moving = transforms.roles(outcome.transform)[1]
    moving.SetAndObserveTransformNodeID(outcome.transform.GetID())
    moving.HardenTransform()


def edited(outcome, scene):
    moving = transforms.roles(outcome.transform)[1]
    array = slicer.util.arrayFromVolume(moving)
    array[array.shape[0] // 2 :] += 50
    slicer.util.arrayFromVolumeModified(moving)


def moved(outcome, scene):
    parent = transforms.roles(outcome.transform)[1].GetParentTransformNode()
    matrix = transforms.matrix_of(parent.GetMatrixTransformToParent())
    parent.SetMatrixTransformToParent(transforms.matrix_to_vtk(matrix @ matrix))


@pytest.mark.parametrize("change", [hardened, edited, moved])
def test_nothing_is_made_of_a_moving_volume_that_changed(
    outcome, scene, add_volume, add_points, kit, change
):
    assert images_of(outcome.transform)
    output = add_volume(kit.image_on(kit.GRIDS["oblique"]), "output")
    change(outcome, scene)
    with pytest.raises(InputError, match="'moving' was hardened, moved or edited"):
        products_task(outcome.transform, output)
    settings = Settings(*transforms.roles(outcome.transform), outputTransform=outcome.transform)
    points = add_points([(0, 0, 0)]), add_points([(1, 1, 1)])
    with pytest.raises(InputError, match="load it anew"):
        Continuation(settings, *points)
    session = Session.of(outcome.transform)
    assert session.preview is None and len(session.history) == 5
    session.close()


@pytest.mark.parametrize("change", [edited, moved])
@pytest.mark.parametrize("again", [False, True])
def test_a_volume_that_changes_while_the_run_prepares_ends_it(outcome, scene, kit, change, again):
    """The engine has copied it as it was: its preview would be warped from another place."""
    gate, images = threading.Semaphore(0), transforms.roles(outcome.transform)
    settings = Settings(*images, outputTransform=outcome.transform if again else None)
    before = kit.node_ids(scene)
    run = Run(settings, factory=partial(kit.Trial, gate=gate))
    change(outcome, scene)
    gate.release(9)
    last = kit.finished(run)[-1]
    assert isinstance(last, Failed) and "'moving' was hardened, moved or edited" in last.message
    assert kit.node_ids(scene) == before and run.outcome is None


def test_a_fixed_volume_that_was_moved_is_noticed(outcome, scene, add_linear, askew):
    fixed = transforms.roles(outcome.transform)[0]
    fixed.SetAndObserveTransformNodeID(add_linear(askew).GetID())
    with pytest.raises(InputError, match="'fixed' was moved, edited or put under a transform"):
        images_of(outcome.transform)
    fixed.SetAndObserveTransformNodeID(outcome.transform.GetID())
    with pytest.raises(InputError, match="take it out"):
        images_of(outcome.transform)
    fixed.SetAndObserveTransformNodeID(None)
    assert images_of(outcome.transform)[0] is fixed


@pytest.mark.parametrize(
    ("role", "said"),
    [
        (0, "'fixed' was moved, edited or .* or shows another phase: put it back"),
        (1, "'moving' was .* edited since .*, or shows another phase: show that one again which"),
    ],
)
def test_a_volume_that_shows_another_phase_is_noticed(outcome, scene, role, said):
    """That of a player of a 4DCT, whose node gets other voxels at the same place."""
    volume = transforms.roles(outcome.transform)[role]
    slicer.util.arrayFromVolume(volume)[:] += 30
    slicer.util.arrayFromVolumeModified(volume)
    with pytest.raises(InputError, match=said):
        images_of(outcome.transform)


def test_a_scene_of_a_version_that_noted_no_voxels_of_fixed_is_taken_as_it_is(outcome, scene):
    noted = outcome.browser.GetAttribute("L2ORegistration.Fixed").split()
    outcome.browser.SetAttribute("L2ORegistration.Fixed", " ".join(noted[:15]))
    assert images_of(outcome.transform)


def test_where_it_only_lies_under_the_transform_it_is_the_same(outcome, scene):
    moving = transforms.roles(outcome.transform)[1]
    parent = moving.GetParentTransformNode()
    parent.SetAndObserveTransformNodeID(outcome.transform.GetID())
    assert images_of(outcome.transform)[1] is moving
    parent.SetAndObserveTransformNodeID(None)
    moving.HardenTransform()  # of the linear one alone: it lies where it lay
    assert images_of(outcome.transform)[1] is moving


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_do_not_count_as_edited(logic, scans, value):
    """As some programs leave them beyond the field of view; the engine fills them."""
    for volume in scans:
        array = slicer.util.arrayFromVolume(volume).astype(np.float32)
        array[:3] = value
        slicer.util.updateVolumeFromArray(volume, array)
    outcome = logic.register(*scans)
    assert images_of(outcome.transform) == scans
    edited(outcome, None)
    with pytest.raises(InputError, match="'moving' was .* edited"):
        images_of(outcome.transform)


def test_a_scene_of_a_version_that_did_not_note_it_is_taken_as_it_is(outcome, scene):
    for name in ("Fixed", "Moving"):
        outcome.browser.RemoveAttribute(f"L2ORegistration.{name}")
    edited(outcome, scene)
    assert images_of(outcome.transform)
