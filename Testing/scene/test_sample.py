"""The sample pair arrives as four nodes that belong together."""

import numpy as np
from L2ORegistrationLib.scene import landmarks, volumes
from L2ORegistrationLib.scene.sample import add_phantom_pair


def test_two_breathing_states_with_landmarks_inside(scene):
    found = add_phantom_pair(spacing=5.0)
    fixed, moving = landmarks.pairs(found["fixedLandmarks"], found["movingLandmarks"])
    assert len(fixed.points) == 100
    distance = np.linalg.norm(fixed.points - moving.points, axis=1)
    assert 3 < distance.mean() < 20
    for role, points in (("fixed", fixed), ("moving", moving)):
        volume = volumes.to_volume(found[role])
        assert volume.grid.contains(points.points).all()
        assert volume.sample(points.points).mean() < -300  # in the lungs
