"""Interest points are distinctive, and correspondences are found where the motion is known."""

import numpy as np
import pytest
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import Grid, Volume
from L2ORegistrationLib.datasets.cases import Case
from L2ORegistrationLib.training import keypoints
from L2ORegistrationLib.training.keypoints import distinctiveness, find_keypoints, peaks
from L2ORegistrationLib.training.prepared import PreparedPair
from L2ORegistrationLib.training.real import real_pairs
from scipy import ndimage


def test_corners_are_distinctive_edges_and_planes_are_not():
    image = np.zeros((40, 40, 40), np.float32)
    image[20:, 20:, 20:] = 1
    strength = distinctiveness(image)
    corner, edge, plane = strength[20, 20, 20], strength[33, 20, 20], strength[33, 33, 20]
    assert corner > 50 * edge and corner > 50 * plane
    strongest = np.unravel_index(strength.argmax(), strength.shape)
    assert np.abs(np.subtract(strongest, 19.5)).max() <= 1.5


def test_peaks_come_strongest_first_and_apart():
    strength = np.zeros((9, 9, 9))
    strength[2, 3, 4], strength[2, 3, 5], strength[7, 7, 7] = 2, 3, 5
    np.testing.assert_array_equal(peaks(strength, 1, 10), [[7, 7, 7], [2, 3, 5]])
    np.testing.assert_array_equal(peaks(strength, 1, 1), [[7, 7, 7]])
    assert len(peaks(np.zeros((5, 5, 5)), 1, 10)) == 0


@pytest.fixture(scope="module")
def pair():
    """A small lung of blobs in tissue, in fixed and moved by a smooth motion of up to 8 mm."""
    rng = np.random.default_rng(2)
    grid = Grid((52, 50, 56), (1.5, 1.5, 1.5), (10, -20, 30))
    points = grid.points()
    middle = grid.to_world((np.array(grid.size) - 1) / 2)
    blobs = ndimage.gaussian_filter(rng.standard_normal(grid.shape), 1.2)
    blobs = Volume((blobs / blobs.std()).astype(np.float32), grid)

    def scan(where):
        depth = 1 - np.linalg.norm((where - middle) / (28, 26, 32), axis=-1)
        lung = -850 + 250 * np.maximum(blobs.sample(where), 0)
        return np.where(depth > 0, lung, 20 + 0 * depth).astype(np.float32), depth > 0

    def motion(where):
        z = (where[..., 2:] - middle[2]) / 40
        return np.concatenate((2 * z, 3 * (1 - z), -5 + 3 * z), axis=-1)

    (fixed, fixed_mask), (moving, moving_mask) = scan(points + motion(points)), scan(points)
    images = [Volume(a, grid) for a in (fixed, moving, fixed_mask, moving_mask)]
    return images, motion


def test_most_correspondences_are_right(pair, monkeypatch):
    images, motion = pair
    monkeypatch.setattr(keypoints, "COUNT", 300)
    fixed, moving = find_keypoints(*images)
    assert 50 < len(fixed) <= 300 and moving.shape == fixed.shape
    assert (images[2].sample(fixed, order=0) > 0).mean() > 0.99
    errors = np.linalg.norm(moving - fixed - motion(fixed), axis=1)
    assert (errors <= 1.5).mean() > 0.97
    assert np.median(errors) < 0.5


def test_points_that_do_not_come_back_are_dropped(pair, monkeypatch):
    images, _ = pair
    monkeypatch.setattr(keypoints, "TOLERANCE_MM", -1.0)  # as if none did
    with pytest.raises(InputError, match="No point of the fixed lungs was found again"):
        find_keypoints(*images)


def test_an_empty_mask_is_refused(pair):
    (fixed, moving, mask, moving_mask), _ = pair
    empty = Volume(np.zeros_like(mask.array), fixed.grid)
    with pytest.raises(InputError, match="mask is empty"):
        find_keypoints(fixed, moving, empty, moving_mask)


def test_real_cases_become_training_pairs(pair, tmp_path):
    """Correspondences are found where a set brings none; prepared pairs are kept."""
    (fixed, moving, mask, moving_mask), motion = pair
    found = []

    def damaged():
        raise InputError("Case b: moving.nii.gz is damaged.")

    good = Case("a", lambda: fixed, lambda: moving, lambda: mask, lambda: moving_mask)
    bad = Case("b", lambda: fixed, damaged)
    (path,) = real_pairs([good, bad], tmp_path, "skip", on_skip=found.append)
    assert found == ["Case b: moving.nii.gz is damaged. Skipped."]
    with pytest.raises(InputError, match="Case b"):
        real_pairs([good, bad], tmp_path)
    prepared = PreparedPair.load(path)
    assert len(prepared.points) == len(prepared.targets) > 50
    # Targets are what is left of the motion after the lung alignment: small, and mostly right.
    assert prepared.targets.norm(dim=1).median() < 5
    assert real_pairs([Case("a", damaged, damaged)], tmp_path) == [path]


def test_a_case_without_lungs_is_named(tmp_path):
    grid = Grid((20, 20, 20), (3.0, 3.0, 3.0))
    water = Volume(np.random.default_rng(0).normal(20, 5, grid.shape).astype(np.float32), grid)
    with pytest.raises(InputError, match="^Case water: .*lung"):
        real_pairs([Case("water", lambda: water, lambda: water)], tmp_path)


def test_every_case_has_a_file_of_its_own(pair, tmp_path):
    (fixed, moving, mask, moving_mask), _ = pair
    points = fixed.grid.to_world(np.argwhere(mask.array)[::500, ::-1])
    images = [lambda v=v: v for v in (fixed, moving, mask, moving_mask)]
    cases = [Case(name, *images, keypoints=(points, points)) for name in ("a b", "a-b", "a/b")]
    assert len(set(real_pairs(cases, tmp_path))) == 3
