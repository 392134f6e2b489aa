"""Contours are a solid, on whatever planes they were drawn, and are written for all to read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import DisplacementField, Grid
from L2ORegistrationLib.outputs import contours, dicom

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("contourpy")


def ring(radius, z, count=120, x=0.0):
    """Points (count, 3) of a circle in the plane z, LPS mm."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([x + radius * np.cos(angle), radius * np.sin(angle), 0 * angle + z], axis=-1)


def structure(outlines):
    return contours.Structure("Tumour", (1, 2, 3), outlines)


def cylinder(heights, radius=8.0):
    return structure([ring(radius, z) for z in heights])


def area(contour):
    """mm2 within a contour, negative for a hole in another."""
    x, y = contour[:, 0], contour[:, 1]
    return (y @ np.roll(x, -1) - x @ np.roll(y, -1)) / 2


def unmoved(one, first, step, count):
    """The structure's contours on each of count slices, moved by nothing."""
    grid = Grid((50, 50, count), (1.0, 1.0, step), (-25.0, -25.0, first))
    lattice = Grid.covering(grid.corners(), 10.0, margin=10.0)
    identity = DisplacementField(np.zeros((*lattice.shape, 3), np.float32), lattice)
    slices = [[] for _ in range(count)]
    for contour in contours.warp_structure(one, identity, grid).contours:
        slices[round((contour[0, 2] - first) / step)].append(contour)
    return slices


def areas(one, *slices):
    """mm2 of the structure on each slice, in those of a cylinder of radius 8 mm."""
    return np.array([sum(map(area, found)) for found in unmoved(one, *slices)]) / (64 * np.pi)


@pytest.mark.parametrize("first, step", [(-98.75, 1.25), (7.1, 0.625), (0.33, 0.8), (-5.0, 3.0)])
def test_every_slice_keeps_its_area_whatever_their_thickness(first, step):
    found = areas(cylinder(first + step * np.arange(48)), first - 2 * step, step, 52)
    assert np.allclose(found, [0, 0, *[1] * 48, 0, 0], atol=0.01)


@pytest.mark.parametrize("step", [0.625, 1.25, 2.5, 3.0])
def test_a_sphere_keeps_its_volume(step):
    heights = 10.125 + step * np.arange(int(64 / step))
    across = 20.0**2 - (heights - 42.325) ** 2
    ball = structure([ring(np.sqrt(a), z) for a, z in zip(across, heights) if a > 0])
    found = areas(ball, heights[0], step, len(heights)).sum() * step * 64 * np.pi
    assert found == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.015)


@pytest.mark.parametrize("z", [33.35, -7.05])
def test_contours_of_one_slice_are_one_plane(z):
    """The means of their heights differ by the noise of summation, on either side of a tenth."""
    counts = {-15.0: 61, -5.0: 47, 5.0: 73, 15.0: 90}
    one = structure([ring(4.0, z, count, x) for x, count in counts.items()])
    assert len({c[:, 2].mean() for c in one.contours}) > 1
    (found,) = unmoved(one, z, 3.0, 1)
    assert len(found) == 4
    assert np.allclose([area(c) for c in found], 16 * np.pi, rtol=0.01)


def test_planes_drawn_unevenly_stay_where_they_are():
    """Every slice, then every second one: those left out are filled."""
    found = areas(cylinder([*range(20), *range(21, 40, 2)]), -2.0, 1.0, 44)
    assert np.allclose(found, [0, 0, *[1] * 40, 0, 0], atol=0.01)


def test_a_cone_is_straight_through_a_slice_left_out():
    radii = {z: 4.0 + z / 3 for z in (0, 3, 6, 12, 15, 18)}
    shape = structure([ring(r, z) for z, r in radii.items()]).shape()
    assert shape.at(np.array([7.0, 0, 9])) == pytest.approx(0, abs=0.05)
    assert shape.at(np.array([5.5, 0, 4.5])) == pytest.approx(0, abs=0.05)


def test_parts_far_apart_are_not_joined():
    one = cylinder([0, 3, 6, 36, 39, 42])
    assert np.allclose(areas(one, -3.0, 3.0, 17), [0, *[1] * 3, *[0] * 9, *[1] * 3, 0], atol=0.01)
    shape, ends = one.shape(), [(-1, -1.5), (1, 7.5), (-1, 34.5), (1, 43.5)]
    for way, end in ends:  # half a plane's distance longer, each part at both its ends
        within, beyond = np.array([[0, 0, end - 0.1 * way], [0, 0, end + 0.1 * way]])
        assert shape.at(within) < 0 < shape.at(beyond)


def test_two_single_planes_centimetres_apart_are_two_parts():
    assert np.allclose(areas(cylinder([0, 30]), 0.0, 3.0, 11), [1, *[0] * 9, 1], atol=0.01)


@pytest.mark.parametrize("step", [3.0, 1.5])
def test_nothing_is_drawn_beyond_the_ends(step):
    """Neither on the plane that ends the solid nor exactly half way to it."""
    corners = np.array([(-5.0, -5.0), (5.0, -5.0), (5.0, 5.0), (-5.0, 5.0)])
    box = structure([np.column_stack([corners, np.full(4, z)]) for z in (0.0, 3.0, 6.0)])
    found = unmoved(box, -6.0, step, round(18 / step) + 1)
    assert [-6 + step * k for k, one in enumerate(found) if one] == list(np.arange(0, 6.1, step))
    assert all(len(one) <= 1 for one in found)


@pytest.mark.parametrize("first", range(4))
def test_two_planes_of_thin_slices_are_not_overlooked(first):
    thin = cylinder([10.0, 10.625])
    found = areas(thin, 10 - 0.625 * (8 + first), 0.625, 40)
    assert np.flatnonzero(found).tolist() == [8 + first, 9 + first]


def distance_by_hand(polygons, u, v):
    """From the definition: to every edge, and how many edges lie to the right."""
    x, y = np.meshgrid(u, v)
    nearest, inside = np.full(x.shape, np.inf), np.zeros(x.shape, bool)
    for a, b in ((a, b) for p in polygons for a, b in zip(p, np.roll(p, -1, axis=0), strict=True)):
        way = b - a
        along = ((x - a[0]) * way[0] + (y - a[1]) * way[1]) / max(way @ way, 1e-12)
        along = np.clip(along, 0, 1)
        off = np.hypot(x - a[0] - along * way[0], y - a[1] - along * way[1])
        nearest = np.minimum(nearest, off)
        if way[1]:
            inside ^= ((a[1] > y) != (b[1] > y)) & (x < a[0] + (y - a[1]) * way[0] / way[1])
    return np.where(inside, -nearest, nearest)


def star(rng):
    """A closed line round a point, from which it is now nearer and now further."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 40)))
    radius = rng.uniform(2, 12) * rng.uniform(0.3, 1, (len(angles), 1))
    return rng.uniform(-3, 3, 2) + radius * np.column_stack((np.cos(angles), np.sin(angles)))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_the_signed_distance_is_that_of_its_definition(seed):
    """Shapes that may cross, with a point that is there twice, drawn either way round."""
    rng = np.random.default_rng(seed)
    polygons = [star(rng) for _ in range(rng.integers(1, 3))]
    polygons = [np.insert(p, 1, p[0], axis=0)[:: rng.choice([-1, 1])] for p in polygons]
    u, v = np.arange(-17.0, 17.0, 0.7), np.arange(-16.0, 17.0, 0.7)
    found, expected = contours._signed_distance(polygons, u, v), distance_by_hand(polygons, u, v)
    assert np.array_equal(found < 0, expected < 0)
    assert np.abs(found - expected).max() < 0.25


@given(st.lists(st.integers(-600, 600), min_size=4, max_size=4, unique=True))
def test_rows_at_the_height_of_a_corner_cross_both_edges_or_none(tenths):
    """Boxes whose corners have one decimal, as couches have, on rows of half millimetres."""
    (x0, x1), (y0, y1) = np.sort(np.reshape(tenths, (2, 2)) / 10, axis=1)
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    u, v = (
        low - 6 + 0.5 * np.arange(int(2 * (high - low)) + 26) for low, high in ((x0, x1), (y0, y1))
    )
    found = contours._signed_distance([corners], u, v)
    x, y = np.meshgrid(u, v)
    off = np.maximum(np.maximum(x0 - x, x - x1), np.maximum(y0 - y, y - y1))
    clear = np.abs(off) > 1e-6  # of those on the edge itself nothing can be said
    assert np.array_equal(found[clear] < 0, off[clear] < 0)


def test_a_contour_that_is_one_point_is_no_contour():
    point = np.full((3, 3), (5.0, 5.0, 9.0))
    kept = unmoved(structure([*cylinder([0, 3, 6]).contours, point]), 0, 3, 4)
    assert [len(found) for found in kept] == [1, 1, 1, 0]
    with pytest.raises(InputError, match="encloses no area"):
        structure([point]).shape()


def test_a_large_shape_keeps_its_area_too():
    """An outline of a body, 380 mm wide, whose signed distance is known every millimetre."""
    body = structure([ring(190, z, 900) * (1, 120 / 190, 1) for z in (0, 3, 6)])
    assert body.shape().pixel == 1.0
    grid = Grid((400, 260, 1), (1.0, 1.0, 3.0), (-199.7, -129.6, 3.0))
    still = DisplacementField.zeros(Grid.covering(grid.corners(), 10.0, margin=10.0))
    (moved,) = contours.warp_structure(body, still, grid).contours
    assert area(moved) == pytest.approx(np.pi * 190 * 120, rel=2e-4)


def test_points_on_straight_lines_are_left_out():
    corners = np.array([(-20.0, -20.0), (20.0, -20.0), (20.0, 20.0), (-20.0, 20.0)])
    box = structure([np.column_stack([corners, np.zeros(4)])])
    ((square,),) = unmoved(box, 0.0, 3.0, 1)
    assert len(square) < 10 and area(square) == pytest.approx(1600, rel=1e-3)
    ((circle,),) = unmoved(structure([ring(20.0, 0.0, 2000)]), 0.0, 3.0, 1)
    assert len(circle) < 200 and area(circle) == pytest.approx(400 * np.pi, rel=1e-3)
    assert np.abs(np.linalg.norm(circle[:, :2], axis=1) - 20).max() < 0.02


@pytest.fixture
def written(tmp_path):
    """A function that writes a structure and gives the path of its structure set."""
    (tmp_path / "ct").mkdir()
    image = dicom._new("1.2.840.10008.5.1.4.1.1.2", "CT", pydicom.Dataset())
    image.StudyInstanceUID, image.FrameOfReferenceUID = "1.2.3", "1.2.3.4"
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    image.save_as(tmp_path / "ct" / "0.dcm", enforce_file_format=True)
    source = pydicom.Dataset()
    source.StructureSetROISequence = []

    def write(one):
        data = dicom.structures_dataset([one], source, tmp_path / "ct")
        data.save_as(tmp_path / "rs.dcm", enforce_file_format=True)
        return tmp_path / "rs.dcm"

    return write


@pytest.mark.filterwarnings("error")
def test_a_contour_of_more_than_64_kilobytes_is_written_for_all_to_read(written):
    """Explicit VR has no decimal string that long."""
    body = structure([ring(150.0, 0.0, 6000)])
    path = written(body)
    data = pydicom.dcmread(path)
    assert data.file_meta.TransferSyntaxUID == pydicom.uid.ImplicitVRLittleEndian
    assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID
    item = data.ROIContourSequence[0].ContourSequence[0]
    assert item["ContourData"].VR == "DS" and item.NumberOfContourPoints == 6000
    (again,), _ = contours.read_structures(path)
    assert np.allclose(again.contours[0], body.contours[0], atol=1e-4)


def test_a_structure_set_without_names_is_refused_or_numbered(written):
    path = written(structure([ring(9.0, 0.0)]))
    data = pydicom.dcmread(path)
    del data.StructureSetROISequence
    data.save_as(path)
    assert contours.read_structures(path)[0][0].name == "0"
    del data.ROIContourSequence
    data.save_as(path)
    with pytest.raises(InputError, match="no closed contour"):
        contours.read_structures(path)


@pytest.mark.parametrize(
    "mm, text",
    [(-3.0, "-3"), (-1e-9, "0"), (1 / 3, "0.3333"), (-1234.56789, "-1234.5679"), (1e-4, "0.0001")],
)
def test_coordinates_are_short_decimal_strings(mm, text):
    assert dicom._decimal(mm) == text
    assert all(len(dicom._decimal(x)) <= 16 for x in -np.pi * 10.0 ** np.arange(-9, 15))


def rewritten(path, value):
    """The structure set with these bytes as the coordinates of its contour, in explicit VR."""
    data = pydicom.dcmread(path)
    item = data.ROIContourSequence[0].ContourSequence[0]
    del item.ContourData
    item.add_new("ContourData", "UN", value)
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.save_as(path, implicit_vr=False, little_endian=True)
    return path


def test_long_contours_that_others_wrote_as_unknown_are_read(written):
    points = ring(150.0, 0.0, 6000)
    text = "\\".join(map(dicom._decimal, points.ravel()))
    path = rewritten(written(structure([ring(9.0, 0.0)])), f"{text} ".encode())
    data = pydicom.dcmread(path)
    assert isinstance(data.ROIContourSequence[0].ContourSequence[0].ContourData, bytes)
    (found,), _ = contours.read_structures(path)
    assert np.allclose(found.contours[0], points, atol=1e-4)


@pytest.mark.parametrize("value", [b"1\\2\\3\\4 ", b"", b"\xff\xfe" * 40000])
def test_coordinates_that_are_no_points_are_refused(value, written):
    path = rewritten(written(structure([ring(9.0, 0.0)])), value)
    with pytest.raises(InputError, match="a contour of Tumour in .*rs.dcm cannot be read: export"):
        contours.read_structures(path)


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize("first", [b"x", b" "])
def test_coordinates_that_are_no_numbers_are_refused(first, written):
    path = written(structure([ring(9.0, 0.0)]))
    path.write_bytes(path.read_bytes().replace(b"9\\0\\0\\", first + b"\\0\\0\\"))
    with pytest.raises(InputError, match="a contour of Tumour in .*rs.dcm cannot be read: export"):
        contours.read_structures(path)


def test_contours_that_say_how_holes_are_meant_are_closed_too_and_say_it_again(written):
    """CLOSEDPLANAR_XOR of PS3.3, C.8.8.6.3."""
    path = written(structure([c for z in (0, 3, 6) for c in (ring(9.0, z), ring(3.0, z))]))
    data = pydicom.dcmread(path)
    for item in data.ROIContourSequence[0].ContourSequence:
        item.ContourGeometricType = contours.XOR
    data.save_as(path)
    (found,), _ = contours.read_structures(path)
    assert found.shape().millilitres() == pytest.approx(np.pi * (81 - 9) * 9 / 1000, rel=0.02)
    again = pydicom.dcmread(written(found)).ROIContourSequence[0].ContourSequence
    assert {item.ContourGeometricType for item in again} == {"CLOSEDPLANAR_XOR"}


@pytest.mark.parametrize("again", [lambda c: c, lambda c: np.roll(c[::-1], 7, axis=0)])
def test_a_contour_drawn_twice_is_no_hole_unless_it_says_so(written, again):
    outer, inner = ([ring(radius, z) for z in (0, 3, 6)] for radius in (9.0, 3.0))
    path = written(structure([*outer, *inner, *map(again, outer), again(inner[1])]))
    (found,), data = contours.read_structures(path)
    assert len(found.contours) == 6 and np.allclose(found.contours, [*outer, *inner], atol=1e-4)
    assert found.shape().millilitres() == pytest.approx(np.pi * (81 - 9) * 9 / 1000, rel=0.02)
    for item in data.ROIContourSequence[0].ContourSequence:
        item.ContourGeometricType = contours.XOR
    data.save_as(path)
    assert len(contours.read_structures(path)[0][0].contours) == 10


def test_a_hole_behind_a_keyhole_stays_a_hole():
    """One contour with a channel, along which it goes there and back: PS3.3, C.8.8.6.3."""
    outlines = [
        np.concatenate([ring(9.0, z), ring(9.0, z)[:1], ring(3.0, z)[::-1], ring(3.0, z)[-1:]])
        for z in (0, 3, 6)
    ]
    assert np.allclose(areas(structure(outlines), 0.0, 3.0, 3), (81 - 9) / 64, rtol=0.01)
