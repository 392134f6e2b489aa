"""Whether stored values are HU or HU + 1024."""

import numpy as np
import pytest
from L2ORegistrationLib.core.hounsfield import stored_offset

SHAPE = (20, 30, 40)


def chest(rng):
    """HU of lungs with vessels in a body, in air, and where the lungs are."""
    array = rng.normal(-850, 60, SHAPE)
    array[rng.random(SHAPE) < 0.01] = 30.0
    z, y, x = np.indices(SHAPE)
    lungs = (np.abs(x - 19.5) < 15) & (np.abs(y - 14.5) < 9)
    body = (np.abs(x - 19.5) < 18) & (np.abs(y - 14.5) < 13)
    array[~lungs] = rng.normal(40, 20, (~lungs).sum())
    array[~body] = -1000.0
    return array, lungs


@pytest.mark.parametrize("offset", [0, 1024])
@pytest.mark.parametrize("painted", [False, True])
def test_the_offset_is_found_also_where_zeros_were_painted_around_the_lungs(rng, offset, painted):
    array, lungs = chest(rng)
    stored = np.where(lungs | (not painted), array + offset, 0.0)
    assert stored_offset(stored) == offset


def test_padding_of_zeros_around_a_whole_scan_hides_no_offset(rng):
    array, lungs = chest(rng)
    stored = np.where(np.indices(SHAPE)[2] > 12, array + 1024, 0.0)
    assert stored_offset(stored) == 1024


@pytest.mark.parametrize("highest", [255, 100])
def test_a_picture_of_eight_bits_has_no_offset(rng, highest):
    array, lungs = chest(rng)
    windowed = np.clip((array + 1000) / 1400, 0, 1) * highest
    assert stored_offset(windowed) == 0
    assert stored_offset(np.where(lungs, windowed, 0)) == 0
