"""What a given mask marks: labels, probabilities and resampled masks, and what is none."""

import numpy as np
import pytest
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.masks import label_values, marked


def cube(*values, dtype=float):
    """An array (z, 4, 4) with two slices of each of these values."""
    return np.tile(np.array(values, dtype).repeat(2)[:, None, None], (1, 4, 4))


@pytest.mark.parametrize(
    "values, expected",
    [
        ((0, 1), (False, True)),
        ((0, 255), (False, True)),
        ((0, 1, 2, 5), (False, True, True, True)),  # lobes
        ((0, -1, np.nan, 1), (False, False, False, True)),
        ((0.0001, 1, 0.4999, 0.5), (False, True, False, True)),  # resampled
        ((0, 0.2, 0.8, 0.95), (False, False, True, True)),  # probabilities
        ((0.3, 1.2, 2, 1.9), (False, True, True, True)),  # two labels, resampled
        ((0, 12.5, 88, 100), (False, False, True, True)),  # percent
        ((0, 100.5, 140, 255), (False, False, True, True)),  # bytes
        ((-0.1, 0.2, 1.08, 0.9), (False, False, True, True)),  # a spline's overshoot
    ],
)
def test_fractions_count_from_one_half_and_labels_from_one(values, expected):
    np.testing.assert_array_equal(marked(cube(*values)), cube(*expected, dtype=bool))


def test_probabilities_in_bytes_count_from_one_half():
    array = np.arange(256, dtype=np.uint8).repeat(8).reshape(8, 16, 16)
    np.testing.assert_array_equal(marked(array), array >= 128)


def test_a_mask_of_zeros_and_ones_is_not_copied():
    """Of a scan of 512 x 512 x 650 voxels a copy is 170 MB."""
    mask = np.array([0, 1, 1, 0], np.uint8)
    found = marked(mask)
    assert found.dtype == bool and found.tolist() == [False, True, True, False]
    assert np.shares_memory(found, mask)


def test_labels_are_chosen():
    array = cube(0, 10, 11, 52, dtype=np.int16)
    assert label_values(array) == [10, 11, 52]
    np.testing.assert_array_equal(marked(array, [10, 11]), (array == 10) | (array == 11))
    with pytest.raises(InputError, match="none of the labels asked for; it has 10, 11, 52"):
        marked(array, [3])


def test_fractions_and_images_have_no_labels():
    assert label_values(cube(0, 0.5)) == []
    assert label_values(cube(0, 1e6)) == []
    assert label_values(np.zeros((4, 4, 4), bool)) == []


@pytest.mark.parametrize(
    "values, said",
    [
        ((-1000, 40), "negative values, as an image has"),
        ((0, 0.0001), "nowhere reaches one half"),
        ((0, 0.3), "nowhere reaches one half .*0.3"),
    ],
)
def test_what_is_no_mask_is_refused(values, said):
    with pytest.raises(InputError, match=said):
        marked(cube(*values))
