"""Both ventilations give the exact volume change of a phantom, whichever scan is the expiration."""

import json

import numpy as np
import pytest
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import read_labels
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.core.jacobian import jacobian_determinant
from L2ORegistrationLib.engine.images.lungs import split_lungs
from L2ORegistrationLib.outputs.ventilation import ventilation
from L2ORegistrationLib.phantom.pair import make_pair


@pytest.fixture(scope="module", params=[False, True], ids=["to inspiration", "to expiration"])
def breath(request):
    """A phantom pair whose lungs keep their mass, its exact field and its exact Jacobian."""
    pair = make_pair(
        4, spacing=3.0, amplitude_mm=25.0, sliding=False, noise_hu=0.0, density=False,
        swap=request.param,
    )  # fmt: skip
    jacobian = jacobian_determinant(pair.field).array
    lungs = pair.fixed_mask.array > 0
    moved = pair.moving.sample(pair.field.transform_points(pair.fixed.grid.points()))
    array = pair.fixed.array.copy()
    array[lungs] = ((1000 + moved) * jacobian - 1000)[lungs]
    return pair, Volume(array.astype(np.float32), pair.fixed.grid), jacobian


@pytest.fixture(scope="module")
def found(breath):
    """The ventilation of the breath, with regions that are given as well."""
    pair, fixed, _ = breath
    return ventilation(pair.field, fixed, pair.moving, pair.fixed_mask, lobes(pair))


def lobes(pair):
    """The front and the back of the fixed lungs, as if they were lobes."""
    lungs, grid = pair.fixed_mask.array > 0, pair.fixed.grid
    front = grid.points()[..., 1] < np.median(grid.points()[lungs][:, 1])
    return {"front": Volume(lungs & front, grid), "back": Volume(lungs & ~front, grid)}


def moved_volume(field, mask):
    """Of each marked voxel, mm3: its eight corners are moved and six tetrahedra measured.

    Positions alone, no derivative: exact for the field as it is between its nodes.
    """
    index = np.argwhere(mask.array)[:, ::-1]
    corner = np.array(list(np.ndindex(2, 2, 2)))
    points = field.transform_points(mask.grid.to_world(index[:, None] + corner - 0.5))
    # All around the diagonal from corner 0 to corner 7.
    around = [1, 3, 2, 6, 4, 5, 1]
    total = np.zeros(len(index))
    for p, q in zip(around, around[1:]):
        edges = [points[:, k] - points[:, 0] for k in (p, q, 7)]
        total += np.einsum("ij,ij->i", edges[0], np.cross(edges[1], edges[2])) / 6
    return np.abs(total)


def test_what_a_narrow_field_of_view_does_not_show_is_not_air(breath, found):
    pair, fixed, _ = breath
    points = pair.moving.grid.points()
    x, y, _ = points.reshape(-1, 3).mean(axis=0)
    beyond = np.hypot(points[..., 0] - x, points[..., 1] - y) > 90
    cut = Volume(np.where(beyond, np.float32(-1000), pair.moving.array), pair.moving.grid)
    told = ventilation(pair.field, fixed, cut, pair.fixed_mask)
    whole = found.regions["both lungs"]
    assert told.regions["both lungs"]["hu"] == pytest.approx(whole["hu"], abs=0.02)
    assert np.isnan(told.hu.array).sum() > 1.02 * np.isnan(found.hu.array).sum()
    assert found.unseen == 0 and "not shown" not in found.sentence()
    assert f"{100 * told.unseen:.0f} % of the fixed lungs are not shown" in told.sentence()


def test_the_files_say_what_is_not_known_by_what_no_lung_gains(tmp_path):
    """0 would be a part of the lung that gains nothing."""
    from L2ORegistrationLib.reporting import ventilation as reporting

    grid = Grid((30, 30, 30), (4.0, 4.0, 4.0))
    lungs = Volume(np.zeros(grid.shape, np.uint8), grid)
    lungs.array[4:26, 4:26, 4:26] = 1
    fixed = Volume(np.where(lungs.array, np.float32(-700), np.float32(40)), grid)
    still = DisplacementField.zeros(grid)
    told = ventilation(still, fixed, fixed.part(slice(15, 30), *[slice(0, 30)] * 2), lungs)
    assert told.unseen == pytest.approx(0.5, abs=0.05)
    reporting.write(told, fixed, lungs, tmp_path)
    image = read_labels(tmp_path / "ventilation-hu.nii.gz")
    values = image.sample(grid.to_world([(15, 15, 6), (15, 15, 22), (15, 15, 1)]), order=0)
    assert values == pytest.approx([-1, 0, -1], abs=1e-3)  # lung not shown, shown, no lung
    about = json.loads((tmp_path / "ventilation.json").read_text("utf-8"))
    assert about["unseen"] == told.unseen and about["unknown_value"] == -1


def test_a_moved_voxel_is_measured_exactly():
    grid = Grid((5, 5, 5), (2.0, 3.0, 4.0))
    field = DisplacementField.zeros(grid)
    field.array[..., 0] = 0.5 * grid.points()[..., 0] + 0.3 * grid.points()[..., 1]
    mask = Volume(np.zeros(grid.shape, bool), grid)
    mask.array[2, 2, 2] = True
    assert moved_volume(field, mask) == pytest.approx(24 * 1.5)


@pytest.mark.slow
def test_regions_agree_with_the_exact_volume_change(breath, found):
    """Both kinds within 3 % of what the geometry says, in each region, given lobes as well."""
    pair, _, jacobian = breath
    lungs, grid = pair.fixed_mask.array > 0, pair.fixed.grid
    total = jacobian[lungs].mean()
    expiration = total > 1
    assert found.fixed_is == ("expiration" if expiration else "inspiration")
    assert abs(found.mass) < 0.02
    assert len(found.regions) == 11
    voxel = float(np.prod(grid.spacing))
    moved = np.zeros(lungs.shape)
    moved[lungs] = moved_volume(pair.field, Volume(lungs, grid))
    z = grid.points()[..., 2]
    masks = {"both lungs": lungs} | {name: mask.array for name, mask in lobes(pair).items()}
    sides = split_lungs(Volume(lungs, grid))
    for side, whole in zip(("right", "left"), sides, strict=True):
        masks[f"{side} lung"] = whole
        edges = np.linspace(z[whole].max(), z[whole].min(), 4)
        for k, part in enumerate(("upper", "middle", "lower")):
            masks[f"{side} {part} third"] = whole & (z <= edges[k]) & (z >= edges[k + 1])
    assert set(masks) == set(found.regions)
    for name, mask in masks.items():
        before, after = mask.sum() * voxel, moved[mask].sum()
        exact = (after / before if expiration else before / after) - 1
        region = found.regions[name]
        assert region["jacobian"] == pytest.approx(exact, abs=0.03), name
        assert region["hu"] == pytest.approx(exact, abs=0.03), name
    ml = (lungs.sum() * voxel if expiration else moved[lungs].sum()) / 1000
    assert found.regions["both lungs"]["volume_ml"] == pytest.approx(ml, rel=0.03)


def test_a_uniform_stretch_is_known_by_hand():
    """20 % longer along z: every region gains 0.2, and 0.25 per air where a fifth is tissue."""
    grid = Grid((40, 40, 40), (3.0, 3.0, 3.0))
    lungs = np.zeros(grid.shape, np.uint8)
    lungs[8:32, 10:30, 4:17] = lungs[8:32, 10:30, 23:36] = 1
    field = DisplacementField.zeros(grid)
    field.array[..., 2] = 0.2 * (grid.points()[..., 2] - 60)
    fixed = np.where(lungs, -800.0, 0.0).astype(np.float32)
    moving = np.full(grid.shape, 1000 * (0.2 / 1.2 - 1), np.float32)
    found = ventilation(field, *(Volume(a, grid) for a in (fixed, moving, lungs)))
    assert found.fixed_is == "expiration" and abs(found.mass) < 1e-3
    for region in found.regions.values():
        assert region["jacobian"] == pytest.approx(0.2, abs=1e-3)
        assert region["hu"] == pytest.approx(0.2, abs=2e-3)
        assert region["low"] == 0
    inside = np.isfinite(found.specific.array)
    assert np.allclose(found.specific.array[inside], 0.25, atol=5e-3)


def test_blood_that_enters_is_corrected_for():
    grid = Grid((30, 30, 30), (3.0, 3.0, 3.0))
    lungs = np.zeros(grid.shape, np.uint8)
    lungs[5:25, 5:25, 3:13] = lungs[5:25, 5:25, 17:27] = 1
    still = DisplacementField.zeros(grid)
    images = [np.full(grid.shape, 1000 * (rho - 1), np.float32) for rho in (0.2, 0.22)]
    found = ventilation(still, *(Volume(a, grid) for a in (*images, lungs)))
    assert found.mass == pytest.approx(0.1, abs=1e-3)
    assert found.regions["right lung"]["hu"] == pytest.approx(0, abs=1e-3)
    # Of both lungs the correction would give the Jacobian's answer, whatever the densities say.
    assert found.regions["both lungs"]["hu"] == pytest.approx(0.2 / 0.22 - 1, abs=1e-3)
    assert "-9 % by HU, if no blood" in found.sentence() and "disagree" not in found.sentence()


def boxes():
    """Two lungs on a grid of 3 mm."""
    grid = Grid((40, 40, 40), (3.0, 3.0, 3.0))
    lungs = np.zeros(grid.shape, np.uint8)
    lungs[8:32, 10:30, 4:17] = lungs[8:32, 10:30, 23:36] = 1
    return grid, lungs


def test_densities_that_no_breath_explains_are_said():
    """30 % more volume, and as dense as before: air would have come in with its weight in blood."""
    grid, lungs = boxes()
    field = DisplacementField.zeros(grid)
    field.array[..., 2] = 0.3 * (grid.points()[..., 2] - 60)
    image = Volume(np.full(grid.shape, -700.0, np.float32), grid)
    found = ventilation(field, image, image, Volume(lungs, grid))
    assert found.mass == pytest.approx(0.3, abs=0.01)
    assert "30 % by the Jacobian; 0 % by HU" in found.sentence()
    assert "mass would change by 30 %, more than a breath explains" in found.sentence()


def test_hounsfield_units_that_are_stored_plus_1024_are_known():
    """In one scan only; with enough of soft tissue around the lungs to tell."""
    grid, lungs = boxes()
    images = [np.where(lungs, 1000 * (rho - 1), 0.0).astype(np.float32) for rho in (0.2, 0.16)]
    field = DisplacementField.zeros(grid)
    usual = ventilation(field, *(Volume(a, grid) for a in (*images, lungs)))
    for which in (0, 1):
        stored = [image + 1024 * (k == which) for k, image in enumerate(images)]
        found = ventilation(field, *(Volume(a, grid) for a in (*stored, lungs)))
        assert found.mass == pytest.approx(usual.mass, abs=1e-3)
        for name, region in usual.regions.items():
            assert found.regions[name] == pytest.approx(region, abs=2e-3), name


@pytest.mark.parametrize("which", [0, 1])
def test_what_the_scanner_did_not_reconstruct_counts_in_neither_scan(which):
    grid, lungs = boxes()
    images = [np.full(grid.shape, 1000 * (rho - 1), np.float32) for rho in (0.2, 0.16)]
    clean = ventilation(DisplacementField.zeros(grid), *(Volume(a, grid) for a in (*images, lungs)))
    images[which] = images[which].copy()
    images[which][..., :10] = -3024
    found = ventilation(DisplacementField.zeros(grid), *(Volume(a, grid) for a in (*images, lungs)))
    assert found.mass == pytest.approx(clean.mass, abs=1e-3)
    for name in ("right lung", "left lung", "both lungs"):
        assert found.regions[name]["hu"] == pytest.approx(clean.regions[name]["hu"], abs=2e-3)
    assert np.nanmax(found.hu.array) == pytest.approx(np.nanmax(clean.hu.array), abs=2e-3)


def test_a_field_that_folds_is_refused():
    grid = Grid((20, 20, 20), (3.0, 3.0, 3.0))
    field = DisplacementField.zeros(grid)
    field.array[..., 0] = -2 * grid.points()[..., 0]
    everything = Volume(np.ones(grid.shape, np.uint8), grid)
    with pytest.raises(InputError, match="folds in"):
        ventilation(field, everything, everything, everything)


@pytest.mark.slow
def test_the_files_hold_what_was_found(breath, found, tmp_path):
    from L2ORegistrationLib.reporting import ventilation as reporting

    pair, fixed, _ = breath
    paths = reporting.write(found, fixed, pair.fixed_mask, tmp_path)
    assert all(path.stat().st_size > 1000 for path in paths)
    about = json.loads((tmp_path / "ventilation.json").read_text("utf-8"))
    assert about["regions"] == found.regions and about["fixed_is"] == found.fixed_is
