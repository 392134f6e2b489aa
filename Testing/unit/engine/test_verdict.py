"""The verdict: what makes a registration good, doubtful or failed, and that it says why."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import SimpleITK as sitk  # noqa: E402
from L2ORegistrationLib.core.geometry import Grid  # noqa: E402
from L2ORegistrationLib.engine.field.pyramid import FeaturePyramid  # noqa: E402
from L2ORegistrationLib.engine.images.preprocessing import WorkingPair  # noqa: E402
from L2ORegistrationLib.engine.match import Match, halves, match  # noqa: E402
from L2ORegistrationLib.engine.verdict import judge  # noqa: E402
from scipy import ndimage  # noqa: E402

SURE = Match(matched=0.95, ratio=0.3, right=0.95, left=0.95, inside=1.0)
GRID = Grid((64, 64, 64), (1.5, 1.5, 1.5))


def with_(**changes):
    return Match(**{**SURE.__dict__, **changes})


def test_lungs_that_may_be_far_off_are_doubtful():
    assert judge(SURE, 0.0, 1.0, unsure=0.05).level == "good"
    verdict = judge(SURE, 0.0, 1.0, unsure=0.2)
    assert verdict.level == "check" and "20% of the lungs may be off by" in verdict.reasons[0]
    assert judge(SURE, 0.0, 1.0, unsure=1.0).level == "check"
    unknown = judge(SURE, 0.0, 1.0, unsure=np.nan)
    assert unknown.level == "check" and unknown.reasons[0].startswith(
        "The error could not be estimated"
    )


def test_what_matches_surely_and_folds_nowhere_is_good():
    verdict = judge(SURE, folded=0.0, expansion=1.3)
    assert verdict.level == "good" and verdict.reasons == ()


@pytest.mark.parametrize(
    "found, folded, expansion, level, word",
    [
        (with_(matched=0.6), 0.0, 1.0, "check", "60% of the fixed lungs match"),
        (with_(matched=0.2), 0.0, 1.0, "failed", "20% of the fixed lungs match"),
        (with_(ratio=0.9), 0.0, 1.0, "failed", "match clearly better"),
        (with_(inside=0.5), 0.0, 1.0, "check", "After the registration both images show only 50%"),
        (with_(inside=0.1), 0.0, 1.0, "failed", "After the registration both images show only 10%"),
        (with_(left=0.1), 0.0, 1.0, "check", "The left lung is hardly matched"),
        (with_(right=0.1), 0.0, 1.0, "check", "The right lung is hardly matched"),
        (with_(mismatch=(0.01, 0.017)), 0.0, 1.0, "check", "The left lung matches clearly worse"),
        (with_(mismatch=(0.017, 0.01)), 0.0, 1.0, "check", "The right lung matches clearly worse"),
        (SURE, 0.005, 1.0, "check", "folds in 0.50%"),
        (SURE, 0.2, 1.0, "failed", "folds in 20.00%"),
        (SURE, 0.0, 0.3, "check", "factor of 0.30"),
        (SURE, 0.0, 8.0, "failed", "factor of 8.00"),
    ],
)
def test_every_reason_is_said(found, folded, expansion, level, word):
    verdict = judge(found, folded, expansion)
    assert verdict.level == level and len(verdict.reasons) == 1 and word in verdict.reasons[0]


@pytest.mark.parametrize(
    "changes, good, check, failed",
    [
        ("matched", 0.67, 0.65, 0.53),
        ("ratio", 0.65, 0.67, 0.81),
        ("inside", 0.76, 0.74, 0.29),
        ("folded", 0.0009, 0.0011, 0.021),
        ("expansion", 0.41, 0.39, 0.19),
        ("expansion", 2.4, 2.6, 5.1),
    ],
)
def test_the_limits_are_where_they_were_calibrated(changes, good, check, failed):
    for value, level in ((good, "good"), (check, "check"), (failed, "failed")):
        measured = {"folded": 0.0, "expansion": 1.0}
        found = SURE
        if changes in measured:
            measured[changes] = value
        else:
            found = with_(**{changes: value})
        assert judge(found, **measured).level == level, value


@pytest.mark.parametrize("mismatch", [None, (0.01, 0.015), (0.0, 0.0), (1e-4, 6e-3)])
def test_lungs_that_match_about_alike_are_good(mismatch):
    assert judge(with_(mismatch=mismatch), 0.0, 1.0).level == "good"


def test_a_lung_is_said_once_to_be_worse():
    verdict = judge(with_(left=0.1, mismatch=(0.01, 0.1)), 0.0, 1.0)
    assert len(verdict.reasons) == 1 and "hardly matched" in verdict.reasons[0]


def test_a_lung_that_matches_beside_one_full_of_fluid_is_not_failed():
    found = with_(matched=0.4, ratio=0.9, right=0.75, left=0.1)
    verdict = judge(found, 0.0, 1.0)
    assert verdict.level == "check" and "left lung is hardly matched" in verdict.reasons[-1]
    assert judge(with_(matched=0.4, right=0.6, left=0.1), 0.0, 1.0).level == "failed"


def test_one_lung_alone_is_not_missed():
    assert judge(with_(left=None), 0.0, 1.0).level == "good"


def test_odd_masks_are_never_good_and_the_worst_decides():
    verdict = judge(with_(matched=0.1), 0.0, 1.0, lungs=["The fixed lungs look wrong: 59 litres."])
    assert verdict.level == "failed"
    assert verdict.reasons[0] == "The fixed lungs look wrong: 59 litres."
    assert judge(SURE, 0.0, 1.0, lungs=["odd"]).level == "check"


@pytest.fixture(scope="module")
def level():
    """A noisy pair whose truth is no motion."""
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.standard_normal(GRID.shape), 1.7)
    texture = 0.15 * texture / texture.std()
    images = [
        (texture + 0.05 * rng.standard_normal(GRID.shape)).astype(np.float32) for _ in range(2)
    ]
    centre = GRID.to_world(np.full(3, 31.5))
    away = GRID.points() - centre
    between = 8 - np.abs(away[..., 0])  # two lungs, with something else in the middle
    distance = np.maximum(np.linalg.norm(away, axis=-1) - 36, between).astype(np.float32)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    return FeaturePyramid(
        WorkingPair(*images, distance < 0, distance, distance, GRID, identity)
    ).mind_level(2)


def test_where_the_field_is_right_the_lungs_match_and_elsewhere_not(level):
    still = torch.zeros(3, *level.shape)
    right, wrong = match(level, still, 1.0), match(level, still + 12.0, 1.0)
    assert right.matched > 0.9 and right.ratio < 0.6
    assert wrong.matched < 0.4 and wrong.ratio > 0.9
    assert judge(right, 0.0, 1.0).level == "good" and judge(wrong, 0.0, 1.0).level == "failed"


def test_the_patients_right_is_where_x_is_small(level):
    field = torch.zeros(3, *level.shape)
    field[:, :, :, : level.shape[2] // 2] = 15.0  # LPS: the right half is wrong
    found = match(level, field, 1.0)
    assert found.right < 0.5 < found.left
    assert found.mismatch[0] > 1.6 * found.mismatch[1]
    alike = match(level, 0 * field, 1.0).mismatch
    assert max(alike) < 1.1 * min(alike)
    right, left = GRID.to_world(np.array([[12, 31, 31], [51, 31, 31]]))
    assert found.around.sample(right) < 0.5 and found.around.sample(left) > 0.8


def test_the_sides_of_one_lung_are_no_lungs():
    """By hand: columns of nodes across the patient, more of them where there is more lung."""
    columns = {"two": [3, 8, 9, 6, 1, 0, 1, 5, 9, 7, 3], "one": [2, 6, 9, 9, 7, 3]}
    both, single = (np.repeat(np.arange(len(c)), c) for c in columns.values())
    right, left = halves(both)
    assert right.sum() == 27 and left.sum() == 25 and not (right & left).any()
    assert not any(half.any() for half in halves(single))
