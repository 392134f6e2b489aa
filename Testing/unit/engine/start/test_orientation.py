"""A lost orientation is found and named, whichever of the 47 others it is."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.core.geometry import Volume  # noqa: E402
from L2ORegistrationLib.engine.images.preprocessing import working_grid  # noqa: E402
from L2ORegistrationLib.engine.start.alignment import distance_map  # noqa: E402
from L2ORegistrationLib.engine.start.orientation import (  # noqa: E402
    _described,
    _matrix,
    lost_orientation,
)
from L2ORegistrationLib.phantom.pair import make_pair  # noqa: E402


@pytest.mark.parametrize(
    "signs, told",
    [
        ((-1, 1, 1), "left and right are exchanged"),
        ((1, -1, 1), "front and back are exchanged"),
        ((1, 1, -1), "top and bottom are exchanged"),
    ],
)
def test_one_mirrored_axis_is_named(signs, told):
    assert _described(_matrix((0, 1, 2), signs)) == told


def test_turned_axes_are_named_by_hand():
    """The patient's left lies along the stored P, P along S, and S along R."""
    matrix = _matrix((1, 2, 0), (1, 1, -1))
    assert np.array_equal(matrix @ (1, 0, 0), (0, 1, 0))
    assert np.array_equal(matrix @ (0, 0, 1), (-1, 0, 0))
    assert _described(matrix) == "its axes L, P, S lie along P, S, R"


@pytest.mark.parametrize(
    "stored, told",
    [
        (lambda a: a, ""),
        (lambda a: a[..., ::-1], "left and right are exchanged"),
        # Stored (x, y, z) of what was (y, z, x): the patient's left lies along the stored S.
        (lambda a: a.transpose(2, 0, 1), "its axes L, P, S lie along S, L, P"),
    ],
)
def test_images_that_went_through_an_array_are_found(stored, told):
    pair = make_pair(0, spacing=6.0, amplitude_mm=10.0)
    size = min(pair.moving.array.shape)
    box = 3 * (slice(0, size),)  # a cube, so that any order of axes fits the grid
    moving, mask = (v.part(*box) for v in (pair.moving, pair.moving_mask))
    moving, mask = (Volume(np.ascontiguousarray(stored(v.array)), v.grid) for v in (moving, mask))
    distances = distance_map(pair.fixed_mask), distance_map(mask)
    grid = working_grid(distances[0], 3.0)
    given = pair.fixed, moving, *distances, grid
    said = lost_orientation(*given, 0.2)
    assert told in said and bool(told) == bool(said)
    assert lost_orientation(*given, 0.01) == ""  # as they lie they match better than any other way
