"""What images show: all of an ordinary scan, the inside of a narrow field of view, no more."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import SimpleITK as sitk  # noqa: E402
from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.core.geometry import Grid, Volume  # noqa: E402
from L2ORegistrationLib.engine.field.levels import Level  # noqa: E402
from L2ORegistrationLib.engine.images.seen import seen_on, shown  # noqa: E402
from L2ORegistrationLib.engine.optimise.penalty import Penalty, holding  # noqa: E402
from L2ORegistrationLib.engine.registration import register  # noqa: E402
from L2ORegistrationLib.phantom.pair import make_pair  # noqa: E402

GRID = Grid((60, 50, 40), (2.5, 2.5, 3.0), (-70.0, -60.0, -55.0))
IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


def scan(grid=GRID):
    """Tissue and lung with noise, in air whose values differ."""
    rng = np.random.default_rng(0)
    points = grid.points()
    body = np.abs(points[..., 0]) < 60
    array = np.where(body, -300.0, -1000.0) + rng.normal(0, 30, grid.shape)
    return Volume(array.astype(np.float32), grid)


def narrowed(volume, radius, value=-1000.0):
    """The scan within a cylinder around its middle, as a small field of view shows it."""
    points = volume.grid.points()
    x, y, _ = points.reshape(-1, 3).mean(axis=0)
    beyond = np.hypot(points[..., 0] - x, points[..., 1] - y) > radius
    array = np.where(beyond, np.float32(value), volume.array)
    return Volume(array, volume.grid), beyond


def test_an_ordinary_scan_shows_all_of_itself():
    assert shown(scan()).array.all()


@pytest.mark.parametrize("value", [-1000.0, -1024.0, -2048.0, 0.0])
def test_a_narrow_field_of_view_shows_what_lies_within(value):
    image, beyond = narrowed(scan(), 50, value)
    seen = shown(image).array > 0
    assert not seen[beyond].any()
    _, far = narrowed(scan(), 44)  # two blocks away from the edge
    assert seen[~far].all()


@pytest.mark.parametrize("value", [-1000.0, 0.0])
def test_lungs_that_somebody_has_cut_out_are_an_image_as_a_whole(value):
    """Where all but the lungs was painted over, their outline still says where they are."""
    rng = np.random.default_rng(1)
    lungs = np.abs(GRID.points()).max(axis=-1) < 40
    array = np.where(lungs, -800 + rng.normal(0, 60, GRID.shape), value)
    assert shown(Volume(array.astype(np.float32), GRID)).array.all()


def test_it_does_not_matter_how_the_file_stores_its_axes():
    image, _ = narrowed(scan(), 50)
    turned = sitk.PermuteAxes(sitk.Flip(image.to_image(), (True, False, True)), (2, 0, 1))
    found = shown(Volume.of_image(turned))
    points = GRID.points().reshape(-1, 3)
    same = found.sample(points, order=0) == shown(image).sample(points, order=0)
    assert same.mean() > 0.99  # blocks begin elsewhere


def test_beyond_an_image_nothing_is_seen():
    """Ten voxels of 3 mm; looked at 9 mm further on, its last three and one at the edge are not."""
    grid = Grid((12, 12, 10), (3.0,) * 3)
    whole = Volume(np.ones(grid.shape, np.uint8), grid)
    assert seen_on(whole, grid, IDENTITY).all()
    up = sitk.TranslationTransform(3, (0.0, 0.0, 9.0))
    seen = seen_on(whole, grid, up)
    assert seen[:6].all() and not seen[6:].any()


def test_a_block_counts_as_far_as_both_images_show_it_where_the_field_leads():
    """Four nodes in a row, 6 mm apart: moving shows the first two, half of the third."""
    seen = torch.ones(2, 1, 1, 4)
    seen[1, 0, 0] = torch.tensor([1.0, 1.0, 0.5, 0.0])
    seen[0, 0, 0, 0] = 0.25
    nodes = torch.arange(4)
    level = Level(torch.zeros(1, 1, 1, 4), 6.0, (0.0, 0.0, 0.0), nodes, nodes[:, None], seen=seen)
    still = torch.zeros(4, 3)
    assert level.seen_share(still).tolist() == pytest.approx([0.25, 1, 0.5, 0])
    onwards = still + torch.tensor([3.0, 0.0, 0.0])  # half a node
    assert level.seen_share(onwards).tolist() == pytest.approx([0.25, 0.75, 0.25, 0])
    assert (replace(level, seen=None).seen_share(still) == 1).all()


@pytest.fixture(scope="module")
def pair():
    return make_pair(3, spacing=3.0, amplitude_mm=25, swap=False)


@pytest.fixture(scope="module")
def cut(pair):
    """A phantom whose moving scan misses the sides of the lungs, and its registration."""
    image, _ = narrowed(pair.moving, 85)
    masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
    found = register(pair.fixed, image, method="gauss-newton", **masks)
    x, y, _ = pair.moving.grid.points().reshape(-1, 3).mean(axis=0)
    away = np.hypot(pair.moving_landmarks[:, 0] - x, pair.moving_landmarks[:, 1] - y)
    errors = found.field.transform_points(pair.fixed_landmarks) - pair.moving_landmarks
    told = found.confidence.sample(pair.fixed_landmarks)
    return found, np.linalg.norm(errors, axis=1), told, away


def test_the_edge_of_a_narrow_field_of_view_does_not_draw_the_lungs(cut):
    """Counted as an image, it took what is seen 1.1 mm and what is not seen 7.6 mm away."""
    _, errors, _, away = cut
    assert (away > 85).mean() > 0.08
    assert errors[away < 80].mean() < 0.8
    assert errors[away > 85].mean() < 4


def test_what_a_narrow_field_of_view_does_not_show_is_told_as_unknown(cut):
    found, errors, told, away = cut
    assert (errors < told)[away > 85].mean() > 0.85  # 6 % before
    assert found.verdict == "check"


def test_a_step_that_leads_out_of_all_that_is_seen_is_not_the_best(pair):
    """Coordinates 300 mm apart: as they lie, both images show none of the lungs."""
    image, _ = narrowed(pair.moving, 80, -1024.0)
    by = np.array([300.0, 0.0, 0.0])
    grid = replace(image.grid, origin=tuple(image.grid.origin + by))
    masks = {"fixed_mask": pair.fixed_mask, "moving_mask": Volume(pair.moving_mask.array, grid)}
    found = register(
        pair.fixed, Volume(image.array, grid), method="gauss-newton", spacing=3, **masks
    )
    errors = found.field.transform_points(pair.fixed_landmarks) - pair.moving_landmarks - by
    assert found.best > 0
    assert np.median(np.linalg.norm(errors, axis=1)) < 3


def test_the_lung_that_a_scan_does_not_show_stays_about_where_it_was():
    """Without springs the motion of the other one, grown on across the chest, takes it 27 mm away
    (11 before the registration)."""
    pair = make_pair(4, spacing=3.0, amplitude_mm=25, swap=False)
    across, down, up = pair.moving.grid.size
    image = pair.moving.part(slice(0, up), slice(0, down), slice(across // 2, across))
    found = register(pair.fixed, image, method="gauss-newton")
    errors = found.field.transform_points(pair.fixed_landmarks) - pair.moving_landmarks
    errors = np.linalg.norm(errors, axis=1)
    seen = image.grid.contains(pair.moving_landmarks, margin=-1)
    assert errors[seen].mean() < 0.6
    assert errors[~seen].mean() < 13
    assert found.verdict == "check"


def test_a_scan_of_a_small_part_is_to_be_the_fixed_one(pair):
    across, down, up = pair.moving.grid.size
    image = pair.moving.part(slice(0, int(0.4 * up)), slice(0, down), slice(0, across))
    with pytest.raises(InputError, match="exchange fixed and moving"):
        register(pair.fixed, image, method="gauss-newton")
    found = register(image, pair.fixed, method="gauss-newton")
    points, ends = pair.moving_landmarks, pair.fixed_landmarks
    seen = image.grid.contains(points, margin=-1)
    errors = np.linalg.norm(found.field.transform_points(points) - ends, axis=1)
    assert errors[seen].mean() < 1


def test_springs_hold_what_is_not_seen_by_hand():
    """Two nodes of 5 mm, of which moving shows a quarter of the second one."""
    seen = torch.tensor([[1.0, 1.0], [1.0, 0.25]]).view(2, 1, 1, 2)
    nodes = torch.arange(2)
    level = Level(torch.zeros(1, 1, 1, 2), 5.0, (0.0, 0.0, 0.0), nodes, nodes[:, None], seen=seen)
    field = torch.zeros(3, 1, 1, 2)
    hold = holding(level, field, stiffness=8.0)
    assert hold.flatten().tolist() == pytest.approx([0, 8 * 0.125**4 * 0.75])
    field[2] = 4.0
    held = Penalty(8.0, hold=hold)(field)
    assert held[2].flatten().tolist() == pytest.approx([0, 4 * 8 * 0.125**4 * 0.75])
    assert not held[:2].any()
    assert holding(replace(level, seen=None), field, 8.0) is None
