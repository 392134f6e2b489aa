"""Whole registrations of a small phantom: found motion, told steps, any storage."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import L2ORegistrationLib as l2o  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from breaths import FAST, GOOD, error, register  # noqa: E402
from L2ORegistrationLib.core.geometry import Grid, Volume  # noqa: E402
from L2ORegistrationLib.core.measures import jacobian_summary, target_registration_error  # noqa: E402
from L2ORegistrationLib.engine.models import export_model  # noqa: E402
from L2ORegistrationLib.engine.optimise.networks import Falta2022Network  # noqa: E402
from L2ORegistrationLib.phantom.pair import make_pair  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402


@pytest.fixture(scope="module")
def learned(pair):
    return register(pair)


@pytest.fixture(scope="module")
def classical(pair):
    return register(pair, method="gauss-newton")


@pytest.fixture(scope="module")
def adam(pair):
    return register(pair, method="adam", iterations=15)


@pytest.mark.parametrize("method", ["classical", "learned", "adam"])
def test_it_finds_the_motion(method, pair, request):
    result = request.getfixturevalue(method)
    errors = [error(step.field, pair) for step in result.steps]
    assert errors[0] > 12 and errors[1] < 5
    assert error(result.field, pair) < min(GOOD, errors[1])
    assert jacobian_summary(result.field, result.fixed_mask)["folding"] == 0


@pytest.mark.parametrize("method", ["classical", "learned", "adam"])
def test_its_steps_tell_how_it_went(method, pair, request):
    result = request.getfixturevalue(method)
    steps = result.steps
    assert [step.index for step in steps] == list(range(steps[0].total + 1))
    assert [step.stage for step in steps[:2]] == ["initial", "start"]
    assert len({step.field.grid for step in steps}) == 1
    assert steps[0].field.grid.contains(pair.fixed.grid.corners(), margin=0).all()
    assert not steps[0].field.array.any()
    seconds = [step.seconds for step in steps]
    assert seconds == sorted(seconds) and result.seconds == seconds[-1]
    levels = [step.level for step in steps[2:]]
    assert levels == sorted(levels) and levels[0] == 0 and levels[-1] >= 1
    dissimilarity = [step.dissimilarity for step in steps]
    assert np.isfinite(dissimilarity).all()
    assert dissimilarity[-1] < dissimilarity[1] < 0.6 * dissimilarity[0]
    assert result.best > 1 and not result.cancelled
    assert result.field is steps[result.best].field and result.field.array.dtype == np.float32


def test_it_says_what_was_done(learned):
    assert learned.provenance["method"] == "l2o" and learned.provenance["start"] == "search"
    assert learned.provenance["spacing_mm"] == 3.0 and learned.provenance["device"] == "cpu"
    assert len(learned.provenance["model_sha256"]) == 64
    assert all(isinstance(v, (str, int, float)) for v in learned.provenance.values())


@pytest.mark.parametrize("suffix", [".h5", ".nii.gz", ".nrrd"])
def test_the_written_field_does_in_simpleitk_what_evaluation_says(learned, pair, tmp_path, suffix):
    path = tmp_path / f"found{suffix}"
    learned.save(path)
    if suffix == ".h5":
        transform = sitk.ReadTransform(str(path))
    else:
        image = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
        transform = sitk.DisplacementFieldTransform(image)
    moved = np.array([transform.TransformPoint(p) for p in pair.fixed_landmarks.tolist()])
    errors = np.linalg.norm(moved - pair.moving_landmarks, axis=1)
    expected = target_registration_error(learned.field, pair.fixed_landmarks, pair.moving_landmarks)
    np.testing.assert_allclose(errors, expected, atol=1e-3)


def test_the_warped_image_looks_like_fixed(learned, pair):
    warped = learned.warped()
    assert warped.grid == pair.fixed.grid
    lungs = pair.fixed_mask.array > 0
    before = np.abs(pair.moving.array - pair.fixed.array)[lungs].mean()
    assert np.abs(warped.array - pair.fixed.array)[lungs].mean() < 0.4 * before


def test_the_field_goes_on_smoothly_beyond_the_lungs(learned):
    """Neighbouring nodes differ by less than their distance: nothing jumps or folds."""
    array = learned.field.array
    assert np.isfinite(array).all()
    for axis in range(3):
        assert np.abs(np.diff(array, axis=axis)).max() < learned.field.grid.spacing[0]


def test_the_same_again_to_the_last_bit(learned, pair):
    again = register(pair)
    for a, b in zip(learned.steps, again.steps):
        assert np.array_equal(a.field.array, b.field.array) and a.dissimilarity == b.dissimilarity


def test_the_lungs_are_found_without_masks(pair):
    result = register(pair, fixed_mask=None, moving_mask=None)
    assert error(result.field, pair) < GOOD
    assert result.fixed_mask.array.dtype == bool and result.fixed_mask.grid == pair.fixed.grid


def test_swapped_roles(pair):
    swapped = SimpleNamespace(
        fixed=pair.moving,
        moving=pair.fixed,
        fixed_mask=pair.moving_mask,
        moving_mask=pair.fixed_mask,
        fixed_landmarks=pair.moving_landmarks,
        moving_landmarks=pair.fixed_landmarks,
    )
    assert error(register(swapped).field, swapped) < GOOD


def test_an_image_on_itself_stays(pair):
    """At the default working spacing."""
    mask = pair.fixed_mask
    result = l2o.register(pair.fixed, pair.fixed, fixed_mask=mask, moving_mask=mask, device="cpu")
    motion = result.field.sample(mask.grid.points()[mask.array > 0])
    assert np.linalg.norm(motion, axis=1).mean() < 0.1


@pytest.mark.parametrize("method", ["l2o", "gauss-newton"])
def test_an_image_on_itself_stays_when_looked_at_more_closely(method, pair):
    """At every iteration; the masks' surfaces lie at whole voxels, where rounding might decide."""
    mask = pair.fixed_mask
    result = l2o.register(
        pair.fixed,
        pair.fixed,
        fixed_mask=mask,
        moving_mask=mask,
        device="cpu",
        method=method,
        spacing=5.0,
    )
    assert result.provenance["closest_mm"] == 4.0
    assert max(np.abs(step.field.array).max() for step in result.steps) < 1e-3


def test_images_finer_than_the_working_grid_are_looked_at_more_closely(monkeypatch):
    """Voxels of 2.2 mm, a working spacing of 3: in the last iterations 2.4, if there is memory."""
    fine = make_pair(3, spacing=2.2, amplitude_mm=20.0, noise_hu=15.0)
    closely = register(fine)
    assert closely.provenance["closest_mm"] == 2.4 and not closely.provenance["warning"]
    monkeypatch.setattr("L2ORegistrationLib.engine.registration.CLOSER_BYTES_PER_VOXEL", 10**12)
    without = register(fine)
    assert without.provenance["closest_mm"] == 3.0 and "closer" in without.provenance["warning"]
    ends = [error(result.steps[-1].field, fine) for result in (closely, without)]
    assert ends[0] < 0.7 * ends[1]
    for sooner in range(-4, -len(closely.steps), -1):  # steps before the last three are the same
        assert np.array_equal(closely.steps[sooner].field.array, without.steps[sooner].field.array)


STORED = {
    "flipped": lambda image: sitk.Flip(image, (True, False, True), False),
    "left-handed": lambda image: sitk.Flip(image, (True, False, False), False),
    "permuted": lambda image: sitk.PermuteAxes(image, (2, 0, 1)),
    "sagittal": lambda image: sitk.DICOMOrient(image, "PIR"),
}


@pytest.mark.parametrize("name", STORED)
def test_how_a_file_stores_its_voxels_makes_no_difference(name, learned, pair):
    """Fixed one way, moving as it was: as if two scanners had written them."""
    fixed, mask = (
        Volume.of_image(STORED[name](volume.to_image())) for volume in (pair.fixed, pair.fixed_mask)
    )
    result = l2o.register(fixed, pair.moving, fixed_mask=mask, moving_mask=pair.moving_mask, **FAST)
    assert result.field.grid.matches(learned.field.grid)
    # Other sums of the same numbers: rounding, which the iterations carry on.
    apart = np.abs(result.field.array - learned.field.array)
    assert apart.max() < 5e-3 and apart.mean() < 5e-4
    assert result.warped().grid == fixed.grid


def turned(pair, degrees):
    """The patient, and with it everything, turned about an oblique axis."""
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([0.5, 0.3, 0.8])).as_matrix()

    def volume(v):
        direction = turn @ np.reshape(v.grid.direction, (3, 3))
        return Volume(v.array, replace(v.grid, direction=direction, origin=turn @ v.grid.origin))

    return SimpleNamespace(
        fixed=volume(pair.fixed),
        moving=volume(pair.moving),
        fixed_mask=volume(pair.fixed_mask),
        moving_mask=volume(pair.moving_mask),
        fixed_landmarks=pair.fixed_landmarks @ turn.T,
        moving_landmarks=pair.moving_landmarks @ turn.T,
    )


def test_oblique_images(pair):
    oblique = turned(pair, 12)
    assert error(register(oblique).field, oblique) < GOOD


def test_each_image_on_a_grid_of_its_own(pair):
    """Moving is sharper along z and coarser across than fixed, and shows less of the patient."""
    grid = pair.moving.grid
    lower, upper = grid.to_world((4, 3, 0)), grid.to_world(np.array(grid.size) - (5, 4, 1))
    spacing = np.array([5.0, 4.5, 2.5])
    size = tuple(((upper - lower) / spacing).astype(int))
    other = Grid(size, tuple(spacing), tuple(lower))
    moving = Volume(pair.moving.sample(other.points()), other)
    mask = Volume(pair.moving_mask.sample(other.points(), order=0) > 0.5, other)
    result = l2o.register(pair.fixed, moving, fixed_mask=pair.fixed_mask, moving_mask=mask, **FAST)
    assert error(result.field, pair) < GOOD
    assert result.warped().grid == pair.fixed.grid


def test_masks_may_lie_on_other_grids_when_they_are_volumes(pair):
    grid = Grid.covering(pair.fixed.grid.corners(), 5.0)
    mask = Volume(pair.fixed_mask.sample(grid.points(), order=0, outside=0) > 0.5, grid)
    assert error(register(pair, fixed_mask=mask).field, pair) < GOOD


def test_images_may_be_files_or_simpleitk_images(pair, tmp_path):
    path = tmp_path / "fixed.nii.gz"
    sitk.WriteImage(pair.fixed.to_image(), str(path))
    registration = l2o.Registration(
        path, pair.moving.to_image(), fixed_mask=pair.fixed_mask.to_image(), **FAST
    )
    assert registration.total > 2 and registration.steps == []
    first = next(iter(registration))
    assert first.stage == "initial" and registration.result().fixed.array.dtype == np.float32


def test_lungs_of_a_few_centimetres(pair):
    """A working grid so small that the networks halve it down to one voxel."""
    assert error(register(pair, spacing=6.0).field, pair) < 4


def test_iterations_and_refinement_are_chosen(pair):
    stages = [s.stage for s in register(pair, method="lapirn", iterations=2).steps]
    assert stages == ["initial", "start"] + 2 * ["lapirn"] + 50 * ["adam"]
    stages = [s.stage for s in register(pair, method="lapirn", refine=False).steps]
    assert stages == ["initial", "start", "lapirn"]
    stages = [(s.stage, s.level) for s in register(pair, iterations=1).steps[2:]]
    assert stages == [("l2o", 0), ("l2o", 1), ("l2o", 2)]
    levels = [s.level for s in register(pair, iterations=(1, 2, 4)).steps[2:]]
    assert levels == [0] + 2 * [1] + 4 * [2]
    for start, count in (("search", 2 + 3 + 8), ("affine", 8 + 3 + 8)):
        planned = l2o.Registration(pair.fixed, pair.moving, **FAST, start=start)
        assert planned.total == 1 + count


def test_a_network_that_makes_every_iteration_is_warned_of_more_than_it_has_learned(pair):
    def warning(method, iterations):
        options = {**FAST, "method": method, "iterations": iterations}
        return l2o.Registration(pair.fixed, pair.moving, **options).warning

    assert "9 iterations a level are more than the falta2022 weights" in warning("falta2022", 9)
    assert warning("falta2022", 8) == warning("l2o", 16) == warning("gauss-newton", 16) == ""


def test_images_coarser_than_the_network_has_learned_from_are_left_to_gauss_newton(pair):
    """Voxels of 4 mm on a grid of 1.5 mm, of 19 of which only one is the image's own."""
    options = {"spacing": 1.5, "iterations": 1}
    given, plain = (register(pair, method=name, **options) for name in ("l2o", "gauss-newton"))
    assert "plain Gauss-Newton made all iterations" in given.provenance["warning"]
    assert plain.provenance["warning"] == ""
    assert given.provenance["plan"] == plain.provenance["plan"] == ", ".join(3 * ["gauss-newton 1"])
    np.testing.assert_array_equal(given.field.array, plain.field.array)
    assert register(pair, iterations=1).provenance["warning"] == ""


def test_the_papers_network_walks_the_same_road(pair, tmp_path):
    torch.manual_seed(0)
    network = Falta2022Network()
    torch.nn.init.normal_(network.last[-2].weight)
    path = tmp_path / "mine.pt"
    export_model(
        network,
        path,
        version="0",
        licence="CC0",
        iterations=2,
        trained_iterations=(8, 8),
    )
    result = register(pair, model=path)
    assert [s.stage for s in result.steps] == ["initial", "start", "falta2022", "falta2022"]
    assert result.provenance["model"] == "mine 0"
    assert result.provenance["method"] == "falta2022"
    assert result.best == 1  # its random steps only make things worse, and that is noticed
    assert all(np.isfinite(step.field.array).all() for step in result.steps)
