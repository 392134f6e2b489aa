"""Label maps and .seg.nrrd through a transform: every label, name and layer arrives."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import write_volume
from L2ORegistrationLib.core.geometry import Grid, Volume
from L2ORegistrationLib.outputs import labels
from moved import CENTRE, GRID, ball, shift


def test_large_numbers_and_layers_of_float_label_maps_survive(tmp_path):
    array = np.zeros(GRID.shape, np.float32)
    array[ball(CENTRE)] = 40000
    array[ball(CENTRE + [15, 0, 0], 5.0)] = 1
    write_volume(Volume(array, GRID), tmp_path / "a.nrrd")
    ml = labels.warp_label_file(tmp_path / "a.nrrd", shift(), GRID, tmp_path / "b.nrrd")
    assert sorted(ml) == ["1", "40000"]
    moved = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "b.nrrd")))
    assert set(np.unique(moved)) == {0, 1, 40000}
    layers = sitk.Compose(*2 * [Volume(array, GRID).to_image()])
    sitk.WriteImage(layers, str(tmp_path / "c.nrrd"))
    labels.warp_label_file(tmp_path / "c.nrrd", shift(), GRID, tmp_path / "d.nrrd")
    assert sitk.ReadImage(str(tmp_path / "d.nrrd")).GetNumberOfComponentsPerPixel() == 2


def test_segments_of_one_name_stay_apart(tmp_path):
    array = np.zeros(GRID.shape, np.uint8)
    array[ball(CENTRE)], array[ball(CENTRE + [15, 0, 0], 5.0)] = 1, 2
    image = Volume(array, GRID).to_image()
    for k in (0, 1):
        image.SetMetaData(f"Segment{k}_Name", "Nodule")
        image.SetMetaData(f"Segment{k}_LabelValue", str(k + 1))
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    ml = labels.warp_label_file(tmp_path / "a.seg.nrrd", shift(), GRID, tmp_path / "b.seg.nrrd")
    found = labels.read_regions(tmp_path / "a.seg.nrrd")
    assert list(ml) == list(found) == ["Nodule", "Nodule (2)"]
    assert [mask.array.sum() for mask in found.values()] == [(array == k).sum() for k in (1, 2)]


def test_labels_move_with_names_colours_and_order(tmp_path):
    array = np.zeros(GRID.shape, np.uint8)
    array[ball(CENTRE)] = 2
    array[ball(CENTRE + [15, 0, 0], 5.0)] = 1
    image = Volume(array, GRID).to_image()
    about = {
        "Segment0_Name": "Second", "Segment0_LabelValue": "2", "Segment0_Color": "0.1 0.2 0.3",
        "Segment1_Name": "First", "Segment1_LabelValue": "1", "Segment1_Extent": "0 1 0 1 0 1",
        "Segmentation_ReferenceImageExtentOffset": "5 5 5",
    }  # fmt: skip
    for key, value in about.items():
        image.SetMetaData(key, value)
    source, out = tmp_path / "a.seg.nrrd", tmp_path / "b.seg.nrrd"
    sitk.WriteImage(image, str(source))
    ml = labels.warp_label_file(source, shift(), GRID, out)
    assert list(ml) == ["Second", "First"]
    voxels = [(array == value).sum() * 6.75 / 1000 for value in (2, 1)]
    assert np.allclose(list(ml.values()), [(n, n) for n in voxels])
    moved = sitk.ReadImage(str(out))
    assert moved.GetMetaData("Segment0_Color") == "0.1 0.2 0.3"
    assert moved.GetMetaData("Segment1_Extent") == "0 47 0 43 0 19"
    assert moved.GetMetaData("Segmentation_ReferenceImageExtentOffset") == "0 0 0"
    # Whole voxels: nothing is lost.
    expected = np.roll(array, (-2, 3, -2), axis=(0, 1, 2))
    assert np.array_equal(sitk.GetArrayFromImage(moved), expected)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_labels_cut_short_are_refused(tmp_path, suffix):
    rng = np.random.default_rng(3)
    source = tmp_path / f"labels{suffix}"
    write_volume(Volume(rng.integers(0, 3, GRID.shape).astype(np.uint8), GRID), source)
    content = source.read_bytes()
    source.write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(InputError, match="labels.*damaged or incomplete"):
        labels.read_regions(source)
    with pytest.raises(InputError, match="labels.*damaged or incomplete"):
        labels.warp_label_file(source, shift(), GRID, tmp_path / "out.nrrd")
    assert not (tmp_path / "out.nrrd").exists()


def test_what_is_no_file_of_labels_is_refused(tmp_path):
    (tmp_path / "text.nrrd").write_text("no labels")
    (tmp_path / "folder.nrrd").mkdir()
    for name in ("text.nrrd", "folder.nrrd"):
        with pytest.raises(InputError, match=f"{name} cannot be read as labels"):
            labels.read_regions(tmp_path / name)
        with pytest.raises(InputError, match=f"{name} cannot be read as labels"):
            labels.warp_label_file(tmp_path / name, shift(), GRID, tmp_path / "out.nrrd")


def test_layers_of_overlapping_segments_move_each_by_itself(tmp_path):
    layers = [Volume(ball(CENTRE, r).astype(np.uint8), GRID).to_image() for r in (9.0, 5.0)]
    moved = sitk.GetArrayFromImage(labels.warp_labels(sitk.Compose(layers), shift(), GRID))
    expected = [np.roll(ball(CENTRE, r), (-2, 3, -2), axis=(0, 1, 2)) for r in (9.0, 5.0)]
    assert np.array_equal(moved, np.stack(expected, axis=-1))


def test_a_label_of_one_voxel_is_not_lost_between_voxels():
    """Moved by 0.4 voxels along each axis a fifth of it is left: the background would win."""
    array = np.zeros(GRID.shape, np.int16)
    array[5, 20, 20], array[ball(CENTRE)] = 700, 2
    near = shift(by=0.4 * np.array(GRID.spacing))
    image = labels.warp_labels(Volume(array, GRID).to_image(), near, GRID)
    moved = sitk.GetArrayFromImage(image)
    assert (moved == 700).sum() == 1 and moved[5, 20, 20] == 700
    assert Grid.of_image(image).matches(GRID) and moved.dtype == np.int16
    assert (moved == 2).sum() == pytest.approx((array == 2).sum(), rel=0.05)


NODULES = [  # of 1, 3 and 12 voxels
    tuple(slice(k, k + n) for k, n in zip((3, 8, 9), size, strict=True))
    for size in ((1, 1, 1), (1, 1, 3), (2, 2, 3))
]


@pytest.mark.parametrize("part", NODULES)
@pytest.mark.parametrize("value", [1, 2])
def test_a_nodule_between_voxels_keeps_its_volume(part, value):
    """Moved by half a voxel each of its voxels is outvoted; the label may be elsewhere, too."""
    array = np.zeros(GRID.shape, np.uint8)
    array[ball(CENTRE)], array[part] = 1, value
    half = shift(by=np.array([0.5, 0.5, 0.45]) * GRID.spacing)
    moved = sitk.GetArrayFromImage(labels.warp_labels(Volume(array, GRID).to_image(), half, GRID))
    around = tuple(slice(s.start - 2, s.stop + 2) for s in part)
    assert (moved[around] == value).sum() == array[part].size
    assert np.bincount(moved.ravel()).tolist() == np.bincount(array.ravel()).tolist()


@given(
    radius=st.floats(2.2, 8.0),
    by=st.tuples(*3 * [st.floats(-1.0, 1.0)]),
    within=st.booleans(),
)
@settings(deadline=None, max_examples=20)
def test_labels_in_each_other_keep_their_volumes(radius, by, within):
    array = np.zeros(GRID.shape, np.uint8)
    array[ball(CENTRE, 12.0)] = within
    array[ball(CENTRE + [2, 1, 0], radius)] = 2
    motion = shift(by=np.multiply(by, GRID.spacing))
    image = labels.warp_labels(Volume(array, GRID).to_image(), motion, GRID)
    moved = sitk.GetArrayFromImage(image)
    assert np.abs(np.bincount(moved.ravel()) - np.bincount(array.ravel())).max() <= 1


@pytest.mark.parametrize("low", [-1000, 0])
def test_an_image_is_no_label_map(low):
    image = np.random.default_rng(0).integers(low, 3000, GRID.shape).astype(np.int16)
    with pytest.raises(InputError, match="is it an image, not a label map"):
        labels.warp_labels(Volume(image, GRID).to_image(), shift(), GRID)
