"""Whole registrations say how far off they may be: about right, and more where nothing matches."""

import numpy as np
import pytest

pytest.importorskip("torch")

from L2ORegistrationLib.engine.registration import register  # noqa: E402
from L2ORegistrationLib.phantom.pair import make_pair  # noqa: E402
from L2ORegistrationLib.phantom.varied import vary  # noqa: E402


@pytest.fixture(scope="module")
def pair():
    return make_pair(5, spacing=2.5, amplitude_mm=15.0, noise_hu=15.0, swap=False)


def registered(pair):
    masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
    return register(pair.fixed, pair.moving, threads=1, device="cpu", **masks)


@pytest.fixture(scope="module")
def plain(pair):
    return registered(pair)


def places(pair):
    return pair.fixed_mask.marked_points(most=3000)


def test_most_places_are_off_by_less_than_they_are_told(pair, plain):
    points = places(pair)
    error = plain.field.transform_points(points) - pair.field.transform_points(points)
    told = plain.confidence_at(points)
    assert np.isfinite(told).all()
    assert 0.8 < (np.linalg.norm(error, axis=1) <= told).mean() < 0.99
    assert plain.provenance["confidence_median_mm"] == pytest.approx(np.median(told), abs=0.05)


def test_in_fluid_it_may_be_far_off(pair, plain):
    # The fluid fills part of one moving lung; the fixed mask still holds what lies there.
    ill = vary(pair, "effusion", 3)
    points = places(pair)
    ends = pair.field.transform_points(points)
    lost = ill.moving_mask.sample(ends, order=0) < pair.moving_mask.sample(ends, order=0)
    assert 0.05 < lost.mean() < 0.5
    told = registered(ill).confidence_at(points)
    healthy = plain.confidence_at(points)
    assert np.median(told[lost]) > 2 * np.median(healthy[lost])
    assert np.median(told[~lost]) < 1.5 * np.median(healthy[~lost])


def test_the_image_of_it_keeps_to_the_lungs(pair, plain):
    image = plain.confidence_image(pair.fixed.grid)
    inside = pair.fixed_mask.array > 0
    assert image.grid == pair.fixed.grid
    assert (image.array[inside] > 0).all() and not image.array[~inside].any()
    small = plain.confidence_image()
    assert set(small.grid.spacing) == {2.0}
    points = places(pair)
    np.testing.assert_allclose(image.sample(points), plain.confidence_at(points), rtol=0.01)


def test_without_any_registration_it_is_unsure(pair, plain):
    cancelled = []
    options = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask, "threads": 1}
    result = register(
        pair.fixed,
        pair.moving,
        start="none",
        on_step=lambda step: cancelled.append(step) or step.index < 1,
        **options,
    )
    assert result.cancelled
    points = places(pair)
    assert np.median(result.confidence_at(points)) > 3 * np.median(plain.confidence_at(points))
