"""The breathing phantom in phases: one patient, exact trajectories, another way back."""

import numpy as np
import pytest
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.phantom.breathing import make_breathing


@pytest.fixture(scope="module")
def breath():
    return make_breathing(7, phases=6, spacing=5.0, amplitude_mm=20.0, noise_hu=0.0)


def test_points_swing_from_inspiration_to_expiration(breath):
    moved = np.linalg.norm(breath.trajectories - breath.trajectories[0], axis=2).mean(axis=1)
    assert moved[0] == 0 and moved.argmax() == 3 and moved[3] > 4  # mm, half of the breath
    up = breath.trajectories[3, :, 2] - breath.trajectories[0, :, 2]
    assert np.median(up) > 3  # the lungs' base goes up in expiration
    assert breath.masks[0].array.sum() > 1.1 * breath.masks[3].array.sum()


def test_points_go_back_another_way(breath):
    there, back = breath.trajectories[1], breath.trajectories[5]
    assert np.linalg.norm(there - back, axis=1).mean() > 0.5  # mm


def test_trajectories_lead_to_the_same_vessels(breath):
    """Branches are bright: brighter than what lies at the same place in the wrong phase."""
    bright = [phase.sample(points) for phase, points in zip(breath.phases, breath.trajectories)]
    wrong = breath.phases[3].sample(breath.trajectories[0])
    assert np.mean(bright[3]) > np.mean(wrong) + 20  # HU
    assert np.corrcoef(bright[0], bright[3])[0, 1] > np.corrcoef(bright[0], wrong)[0, 1] + 0.2


def test_the_seed_decides():
    one, two = (make_breathing(3, phases=2, spacing=8.0) for _ in range(2))
    for a, b in zip(one.phases, two.phases, strict=True):
        assert np.array_equal(a.array, b.array)
    assert not np.array_equal(
        one.phases[0].array, make_breathing(4, phases=2, spacing=8.0).phases[0].array
    )


@pytest.mark.parametrize("wrong", [{"phases": 1}, {"amplitude_mm": -1}, {"noise_hu": -1}])
def test_impossible_breaths_are_refused(wrong):
    with pytest.raises(InputError):
        make_breathing(1, **wrong)
