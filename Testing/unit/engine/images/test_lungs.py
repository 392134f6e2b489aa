"""The lung mask finds drawn lungs however the scan is stored, cropped, padded or disturbed."""

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import Grid, Volume
from L2ORegistrationLib.engine.images.lungs import lung_mask, split_lungs
from L2ORegistrationLib.phantom.pair import make_pair

GRID = Grid((80, 60, 64), (5.0, 5.0, 5.0), (-197.5, -147.5, -157.5))


def inside(points, centre, radii):
    """Which points (..., 3) lie in an ellipsoid."""
    return (((points - np.asarray(centre)) / radii) ** 2).sum(axis=-1) < 1


def along(points, start, end, radius):
    """Which points (..., 3) lie within a radius of a straight piece."""
    start, way = np.asarray(start, float), np.subtract(end, start)
    t = np.clip((points - start) @ way / (way @ way), 0, 1)
    return np.linalg.norm(points - start - t[..., None] * way, axis=-1) < radius


def draw_lungs(points):
    """Right and left lung (bool arrays): the halves of a chest, less heart and diaphragm."""
    lungs = inside(points, (0, 0, -10), (135, 90, 120))
    lungs &= ~inside(points, (10, -30, -50), (55, 50, 60))
    lungs &= ~inside(points, (0, 0, -150), (150, 100, 80))
    x, y = points[..., 0], points[..., 1]
    lungs &= np.abs(x) > np.where(y > 10, 35, 10)
    return lungs & (x < 0), lungs & (x > 0)


def draw(grid=GRID, *, lung=-850, sides="RL"):
    """A chest CT (HU) with all that can be mistaken for lung, and its true lungs (right, left)."""
    points = grid.points()
    right, left = draw_lungs(points)
    right &= "R" in sides
    left &= "L" in sides
    lungs = right | left
    hu = np.full(grid.shape, -1000.0)
    hu[inside(points * (1, 1, 0), (0, 0, 0), (165, 110, 1))] = -100
    hu[inside(points * (1, 1, 0), (0, 0, 0), (155, 100, 1))] = 40
    hu[inside(points, (10, -30, -50), (50, 45, 55))] = 300
    hu[along(points, (0, 75, -200), (0, 75, 200), 15)] = 600  # spine
    hu[(np.abs(points[..., 1] - 130) < 9) & (np.abs(points[..., 0]) < 170)] = -900  # table
    hu[along(points, (-190, 0, -200), (-190, 0, 200), 14)] = 40  # arm
    hu[lungs] = lung
    for x in (-80, 80):
        for end in [(1.4 * x, -20, 20), (1.3 * x, 30, -30), (x, 0, 70)]:
            hu[along(points, (x / 2, 0, 0), end, 5) & lungs] = 300  # vessels
    airway = along(points, (0, 20, 30), (0, 20, 200), 9)
    for x in (-35, 35):
        airway |= along(points, (0, 20, 30), (x, 15, 10), 7)
    wall = along(points, (0, 20, 30), (0, 20, 200), 14)
    hu[wall] = 40
    hu[airway] = -1000
    hu[inside(points, (80, -30, -118), (30, 30, 20))] = -1000  # gas in the bowel
    return Volume(hu, grid), right & ~wall & ~airway, left & ~wall & ~airway


def dice(a, b):
    return 2 * np.sum(a & b) / (a.sum() + b.sum())


@pytest.fixture(scope="module")
def chest():
    return draw()


def test_finds_both_lungs_with_their_vessels_but_no_airways_bowel_or_table(chest):
    image, right, left = chest
    mask = lung_mask(image)
    assert mask.array.dtype == bool and mask.grid is image.grid
    assert dice(mask.array, right | left) > 0.95
    points = image.grid.points()
    assert mask.array[along(points, (-40, 0, 0), (-112, -20, 20), 3)].mean() > 0.9
    assert not mask.array[along(points, (0, 20, 40), (0, 20, 200), 5)].any()
    assert not mask.array[inside(points, (80, -30, -118), (28, 28, 18))].any()
    assert not mask.array[points[..., 1] > 115].any()


def test_splits_right_from_left_by_patient_coordinates(chest):
    image, right, left = chest
    found_right, found_left = split_lungs(lung_mask(image))
    assert dice(found_right, right) > 0.95 and dice(found_left, left) > 0.95
    assert not (found_right & found_left).any()


@pytest.mark.parametrize(
    "disturb",
    {
        "noise": lambda a: a + np.random.default_rng(0).normal(0, 50, a.shape),
        "stored with an offset": lambda a: (a + 1024).astype(np.uint16),
        "stored with an offset and padding": lambda a: np.where(circle(), a + 1024, -2000),
        "circle of -3024": lambda a: np.where(circle(), a, -3024),
        "circle of -1024": lambda a: np.where(circle(), a, -1024),
        "unknown voxels": lambda a: np.where(circle(), a, np.nan),
    }.items(),
    ids=lambda item: item[0],
)
def test_values_that_scanners_write(chest, disturb):
    image, right, left = chest
    mask = lung_mask(Volume(disturb[1](image.array), image.grid))
    assert dice(mask.array, right | left) > 0.94


def circle():
    """The usual reconstruction circle (z, y, x) of GRID; it cuts the arm."""
    x, y = GRID.points()[..., 0], GRID.points()[..., 1]
    return x**2 + (y * 1.33) ** 2 < 195**2


@pytest.mark.parametrize(
    "axes, flips", [((0, 1, 2), (0,)), ((0, 1, 2), (1, 2)), ((2, 0, 1), ()), ((1, 2, 0), (0, 1, 2))]
)
def test_storage_order_makes_no_difference(chest, axes, flips):
    image, _, _ = chest
    expected = np.flip(lung_mask(image).array, flips).transpose(axes)
    stored = np.flip(image.array, flips).transpose(axes)
    matrix = np.diag(GRID.spacing)
    origin = np.array(GRID.origin)
    for axis in flips:
        origin = origin + matrix[:, 2 - axis] * (GRID.size[2 - axis] - 1)
        matrix[:, 2 - axis] *= -1
    columns = [2 - a for a in axes][::-1]
    direction = (matrix / GRID.spacing)[:, columns]
    grid = Grid(stored.shape[::-1], GRID.spacing, tuple(origin), tuple(direction.ravel()))
    np.testing.assert_array_equal(lung_mask(Volume(stored, grid)).array, expected)


@pytest.mark.parametrize(
    "size, spacing, angle",
    [
        ((100, 100, 100), (4, 4, 4), 25),
        ((140, 100, 50), (2.8, 2.8, 8), 0),
        ((70, 110, 90), (5, 3, 4), 10),
    ],
)
def test_any_grid(size, spacing, angle):
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    direction = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, c, -s], [0, s, c]]
    origin = -direction @ ((np.array(size) - 1) / 2 * spacing)
    image, right, left = draw(Grid(size, spacing, tuple(origin), tuple(direction.ravel())))
    mask = lung_mask(image)
    assert dice(mask.array, right | left) > 0.94
    found_right, found_left = split_lungs(mask)
    assert dice(found_right, right) > 0.94 and dice(found_left, left) > 0.94


@pytest.mark.parametrize("margin", [0, -3])
def test_cropped_to_the_lungs(chest, margin):
    image, right, left = chest
    lungs = right | left
    index = np.argwhere(lungs)
    box = tuple(
        slice(int(a) - margin, int(b) + 1 + margin)
        for a, b in zip(index.min(0), index.max(0), strict=True)
    )
    array = image.array[box]
    origin = GRID.to_world([s.start for s in box[::-1]])
    grid = Grid(array.shape[::-1], GRID.spacing, tuple(origin))
    mask = lung_mask(Volume(array, grid))
    assert dice(mask.array, lungs[box]) > 0.94
    found_right, found_left = split_lungs(mask)
    assert dice(found_right, right[box]) > 0.94 and dice(found_left, left[box]) > 0.94


@pytest.mark.parametrize("side", ["R", "L"])
def test_one_lung_alone_keeps_its_side(side):
    half = (43, 60, 64)
    start = GRID.origin[0] if side == "R" else -GRID.origin[0] - 42 * 5.0
    image, right, left = draw(Grid(half, GRID.spacing, (start, *GRID.origin[1:])), sides=side)
    mask = lung_mask(image)
    assert dice(mask.array, right | left) > 0.94
    found_right, found_left = split_lungs(mask)
    found, other = (found_right, found_left) if side == "R" else (found_left, found_right)
    np.testing.assert_array_equal(found, mask.array)
    assert not other.any()


def test_lungs_that_touch_are_cut_at_their_neck():
    right, left = draw_lungs(GRID.points())
    x, y, z = np.moveaxis(GRID.points(), -1, 0)
    bridge = inside(GRID.points(), (0, 0, -10), (135, 90, 120))
    bridge &= (np.abs(x) <= 15) & (y < -60) & (np.abs(z - 30) < 30)
    both = right | left | bridge
    found_right, found_left = split_lungs(Volume(both, GRID))
    np.testing.assert_array_equal(found_right | found_left, both)
    assert dice(found_right, both & (x < 0)) > 0.97 and dice(found_left, both & (x > 0)) > 0.97


def test_breathing_changes_density_but_hardly_the_surface():
    inspiration, expiration = (lung_mask(draw(lung=hu)[0]).array for hu in (-900, -650))
    assert dice(inspiration, expiration) > 0.98


@pytest.mark.parametrize(
    "array",
    {
        "no lungs": lambda: draw(sides="")[0].array,
        "air": lambda: np.full(GRID.shape, -1000.0),
        "tissue": lambda: np.full(GRID.shape, 40.0),
        "nothing": lambda: np.zeros(GRID.shape, np.int16),
        "scaled to 0..1": lambda: (draw()[0].array + 1000) / 2000,
    }.items(),
    ids=lambda item: item[0],
)
def test_images_without_lungs_say_so(array):
    with pytest.raises(InputError, match="No lung was found"):
        lung_mask(Volume(array[1](), GRID))


@pytest.fixture(scope="module")
def scan():
    """A phantom of sizes that no block divides, and its lungs as they are found."""
    scan = make_pair(3, spacing=(2.0, 1.4, 3.5)).fixed
    scan = Volume(
        scan.array[1:, 1:, 1:],
        Grid(np.subtract(scan.grid.size, 1), scan.grid.spacing, scan.grid.to_world((1, 1, 1))),
    )
    return scan, lung_mask(scan).array


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_file_stored_the_other_way_round_has_the_same_lungs(axis, scan):
    """What no block divides is left over; it must be left at the same end."""
    scan, lungs = scan
    chosen = [k == axis for k in range(3)]
    flipped = Volume.of_image(sitk.Flip(scan.to_image(), chosen))
    found = sitk.Flip(lung_mask(flipped).to_image(), chosen)
    assert np.array_equal(sitk.GetArrayFromImage(found) > 0, lungs)
