"""Whole registrations: right ones are good, and such that cannot succeed are not called so."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.core.geometry import Grid, Volume  # noqa: E402
from L2ORegistrationLib.engine.registration import register  # noqa: E402
from L2ORegistrationLib.phantom.pair import make_pair  # noqa: E402


@pytest.fixture(scope="module")
def pair():
    return make_pair(3, spacing=3.0, amplitude_mm=15.0, noise_hu=15.0, swap=False)


def test_a_right_registration_is_good(pair):
    result = register(pair.fixed, pair.moving, threads=1)
    assert result.verdict == "good" and result.reasons == ()
    assert result.provenance["verdict"] == "good"
    assert "identity" in result.provenance["start_chosen"]


def test_an_image_upside_down_is_found_out(pair):
    turned = Volume(np.ascontiguousarray(pair.moving.array[::-1]), pair.moving.grid)
    result = register(pair.fixed, turned, threads=1)
    assert result.verdict == "failed"
    assert "top and bottom are exchanged" in " ".join(result.reasons)


def test_scans_far_apart_without_a_start_are_no_silent_success(pair):
    grid = pair.moving.grid
    away = Grid(grid.size, grid.spacing, np.add(grid.origin, (0, 0, 60)), grid.direction)
    result = register(pair.fixed, Volume(pair.moving.array, away), start="none", threads=1)
    assert result.verdict == "failed" and result.reasons
