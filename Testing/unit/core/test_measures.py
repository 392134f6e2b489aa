"""Errors, Jacobians and pairs of landmarks, against hand-computed answers."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.core.landmarks import Landmarks
from L2ORegistrationLib.core.measures import (
    check_landmarks_inside,
    jacobian_determinant,
    jacobian_summary,
    landmarks_in_ras,
    match_landmarks,
    opposite_direction,
    summarise,
    target_registration_error,
    unpaired,
)
from scipy.spatial.transform import Rotation


def affine_field(matrix, grid):
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(np.ravel(matrix).tolist())
    return DisplacementField.of_transform(affine, grid)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None, max_examples=30)
def test_jacobian_of_an_affine_field_is_its_determinant_on_any_grid(seed, mirrored):
    rng = np.random.default_rng(seed)
    direction = Rotation.random(random_state=seed).as_matrix() * (-1 if mirrored else 1)
    grid = Grid((4, 3, 5), rng.uniform(1, 5, 3), rng.uniform(-50, 50, 3), direction)
    matrix = np.eye(3) + rng.uniform(-0.4, 0.4, (3, 3))
    determinant = jacobian_determinant(affine_field(matrix, grid))
    assert determinant.grid.matches(grid)
    np.testing.assert_allclose(determinant.array, np.linalg.det(matrix), atol=1e-4)


def test_jacobian_of_a_quadratic_field_is_exact_inside():
    grid = Grid((7, 3, 3), (2.0, 1.0, 1.0))
    x = grid.points()[..., 0]
    array = np.zeros((*grid.shape, 3), np.float32)
    array[..., 0] = 0.01 * x**2
    determinant = jacobian_determinant(DisplacementField(array, grid)).array
    np.testing.assert_allclose(determinant[..., 1:-1], 1 + 0.02 * x[..., 1:-1], atol=1e-5)


def test_jacobian_needs_two_nodes_along_each_axis():
    with pytest.raises(InputError, match="two nodes"):
        jacobian_determinant(DisplacementField.zeros(Grid((1, 4, 4))))


def folded_half():
    """A field that turns x back (determinant -1) for x >= 4 and is still (1) for x <= 2."""
    grid = Grid((8, 4, 4))
    array = np.zeros((*grid.shape, 3), np.float32)
    array[..., 0] = -2 * np.maximum(grid.points()[..., 0] - 3, 0)
    return DisplacementField(array, grid)


def test_jacobian_summary_counts_folds_in_the_mask_only():
    field = folded_half()
    everywhere = jacobian_summary(field)
    assert everywhere["folding"] == 5 / 8  # x = 3 has half a fold: determinant 0
    assert everywhere["min"] == -1

    # A mask twice as fine, shifted, and cut: its nearest voxels cover the nodes x = 0, 1, 2.
    fine = Grid((6, 8, 8), (0.5, 0.5, 0.5), (0.1, 0.1, 0.1))
    inside = jacobian_summary(field, Volume(np.ones(fine.shape, bool), fine))
    assert inside == {"sdlogj": 0.0, "sdlogj_learn2reg": 0.0, "folding": 0.0, "min": 1.0}


def test_sdlogj_clamps_folds_at_1e_9():
    values = np.log([1.0] * 3 + [1e-9] * 5)
    assert jacobian_summary(folded_half())["sdlogj"] == pytest.approx(values.std(), rel=1e-6)


def test_sdlogj_of_learn2reg_adds_3_to_the_determinant():
    """Its determinants along x: 1, 1, 1, 0, -1, -1, -1, -1."""
    values = np.log([4.0] * 3 + [3.0] + [2.0] * 4)
    found = jacobian_summary(folded_half())
    assert found["sdlogj_learn2reg"] == pytest.approx(values.std(), rel=1e-6)


def test_a_mask_beside_the_field_is_refused():
    away = Volume(np.ones((2, 2, 2), bool), Grid((2, 2, 2), origin=(100, 0, 0)))
    with pytest.raises(InputError, match="does not overlap"):
        jacobian_summary(folded_half(), away)


def test_registration_error_is_the_distance_after_the_transform():
    grid = Grid((3, 3, 3), (10.0, 10.0, 10.0))
    array = np.zeros((*grid.shape, 3), np.float32)
    array[:] = (3, 0, 0)
    field = DisplacementField(array, grid)
    fixed = np.array([[5.0, 5, 5], [10, 10, 10]])
    moving = np.array([[8.0, 5, 5], [10, 10, 14]])
    np.testing.assert_allclose(target_registration_error(field, fixed, moving), [0, 5])
    transform = sitk.TranslationTransform(3, (3.0, 0.0, 0.0))
    np.testing.assert_allclose(target_registration_error(transform, fixed, moving), [0, 5])


def test_snapped_error_rounds_the_found_point_to_a_voxel_of_moving():
    moving_grid = Grid((9, 9, 9), (2.0, 2.0, 2.0), (1.0, 0.0, 0.0))
    still = DisplacementField.zeros(Grid((2, 2, 2), (20.0, 20.0, 20.0)))
    fixed = np.array([[3.9, 4.2, 6.0], [4.1, 5.2, 6.9], [1.0, 0.0, 15.9]])
    voxels = np.array([[3.0, 4.0, 6.0], [5.0, 6.0, 6.0], [1.0, 0.0, 16.0]])
    for off in ((0, 0, 3), (0, 0, 0), (2, -1, 4)):
        snapped = target_registration_error(still, fixed, voxels + off, snap_to=moving_grid)
        np.testing.assert_allclose(snapped, np.linalg.norm(off) * np.ones(3))


def test_summary_of_ten_errors():
    summary = summarise(np.arange(10, 0, -1))
    assert summary == pytest.approx(
        {"mean": 5.5, "sd": np.sqrt(8.25), "median": 5.5, "p95": 9.55, "worst30": 9, "max": 10}
    )
    assert summarise([2.0])["worst30"] == 2
    with pytest.raises(InputError, match="at least one"):
        summarise([])


def test_landmarks_are_matched_by_label_when_both_have_the_same():
    fixed = Landmarks([[0, 0, 0], [1, 0, 0]], ("carina", "apex"))
    moving = Landmarks([[1, 0, 5], [0, 0, 5]], ("apex", "carina"))
    _, matched = match_landmarks(fixed, moving)
    np.testing.assert_array_equal(matched.points, [[0, 0, 5], [1, 0, 5]])
    assert matched.labels == fixed.labels


@pytest.mark.parametrize("labels", [("M-1", "M-2"), ("apex", "apex")])
def test_landmarks_are_matched_by_order_otherwise(labels):
    fixed = Landmarks([[0, 0, 0], [1, 0, 0]], ("apex", "carina"))
    moving = Landmarks([[1, 0, 5], [0, 0, 5]], labels)
    assert match_landmarks(fixed, moving)[1] is moving


def test_a_deleted_landmark_leaves_the_others_paired():
    points = np.random.default_rng(1).uniform(-50, 50, (12, 3))
    names = [f"F-{k}" for k in range(1, 13)]
    fixed = Landmarks(np.delete(points, 4, axis=0), np.delete(names, 4))
    moving = Landmarks(
        np.delete(points + 1, 8, axis=0), np.delete([f"m-{k}" for k in range(1, 13)], 8)
    )
    a, b = match_landmarks(fixed, moving)
    np.testing.assert_allclose(b.points - a.points, 1)
    assert len(a) == 10 and "F-5" not in a.labels
    assert unpaired(fixed, moving) == (
        "Landmarks without a partner of their label are left out: fixed F-9; moving m-5."
    )
    assert unpaired(fixed, fixed) == ""


@pytest.mark.parametrize(
    "fixed, moving, rows",
    [
        (("Carina", "apex "), ("APEX", "carina"), [1, 0]),
        (("1", "2", "3"), ("03", "1"), [1, None, 0]),
        (("a", "b", "c"), ("c", "x", "b"), [None, 2, 0]),
        (("p", "p", "q"), ("p", "p", "q"), [0, 1, 2]),
    ],
)
def test_labels_pair_whatever_their_order_and_case(fixed, moving, rows):
    fixed = Landmarks(np.eye(3)[: len(fixed)], fixed)
    moving = Landmarks(np.eye(3)[: len(moving)] + 5, moving)
    a, b = match_landmarks(fixed, moving)
    kept = [k for k, row in enumerate(rows) if row is not None]
    np.testing.assert_array_equal(a.points, fixed.points[kept])
    np.testing.assert_array_equal(b.points, moving.points[[rows[k] for k in kept]])


def test_default_numbers_are_no_labels():
    plain, named = Landmarks(np.eye(3)), Landmarks(np.eye(3) + 5, ("3", "2", "1"))
    assert match_landmarks(plain, named)[1] is named
    with pytest.raises(InputError, match="3 fixed but 2 moving"):
        match_landmarks(plain, Landmarks(np.eye(3)[:2]))


def test_a_label_given_twice_is_refused():
    twice = Landmarks(np.eye(3), ("a", "b", "a"))
    with pytest.raises(InputError, match="Several moving landmarks have the label 'a'"):
        match_landmarks(Landmarks(np.eye(3), ("a", "b", "c")), twice)


def test_a_transform_of_the_other_direction_is_noticed():
    fixed = np.random.default_rng(2).uniform(-50, 50, (9, 3))
    moving = fixed + [10, 0, 0] + np.random.default_rng(3).normal(0, 0.5, (9, 3))
    for shift, noticed in (((10.0, 0, 0), False), ((-10.0, 0, 0), True), ((0.0, 0, 0), False)):
        sentence = opposite_direction(sitk.TranslationTransform(3, shift), fixed, moving)
        assert ("invert it" in sentence) == noticed


def test_landmarks_that_fit_as_ras_are_noticed():
    fixed = np.random.default_rng(2).uniform(-50, 50, (9, 3))
    moving = fixed + [10, 4, 3] + np.random.default_rng(3).normal(0, 0.5, (9, 3))
    motion = sitk.TranslationTransform(3, (10.0, 4.0, 3.0))
    assert not landmarks_in_ras(motion, fixed, moving)
    ras = [points * [-1, -1, 1] for points in (fixed, moving)]
    assert "look like RAS" in landmarks_in_ras(motion, *ras)
    assert not landmarks_in_ras(sitk.TranslationTransform(3, (9.0, -4.0, 2.0)), fixed, moving)


def test_different_numbers_of_landmarks_are_refused():
    with pytest.raises(InputError, match="1 fixed but 2 moving"):
        match_landmarks(Landmarks([[0, 0, 0]]), Landmarks([[0, 0, 0], [1, 1, 1]]))
    with pytest.raises(InputError, match="1 fixed but 2 moving"):
        target_registration_error(sitk.TranslationTransform(3), np.zeros((1, 3)), np.zeros((2, 3)))


def test_landmarks_outside_the_image_are_refused_with_a_hint():
    grid = Grid((10, 10, 10), origin=(5, 5, 0))
    inside = np.array([[6.0, 7, 8]])
    check_landmarks_inside(inside, grid, "fixed")
    with pytest.raises(InputError, match="1 of 1 fixed landmarks .* look like RAS"):
        check_landmarks_inside(inside * [-1, -1, 1], grid, "fixed")
    index = np.array([[1.0, 2.0, 3.0], [9.0, 4.0, 0.0]])
    with pytest.raises(InputError, match="2 of 2 .* look like voxel indices"):
        check_landmarks_inside(index, Grid((10, 10, 10), origin=(-50, 5, -90)), "fixed")
    with pytest.raises(InputError, match=r"1 of 2 .* number 2 at \(99.0 0.0 0.0\)"):
        check_landmarks_inside(np.vstack([inside, [[99, 0, 0]]]), grid, "moving")
