"""Images and transforms survive every format, in SimpleITK and in Slicer; bad files are refused."""

import gzip
import locale
import os
import shutil
import subprocess

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import (
    atomic,
    checked_volume,
    read_mask,
    read_transform,
    read_volume,
    write_transform,
    write_volume,
)
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from scipy.spatial.transform import Rotation

OBLIQUE = Grid(
    (6, 5, 4),
    (1.5, 2.0, 3.0),
    (-12.0, 34.5, -56.0),
    Rotation.from_euler("xyz", (10, -20, 30), degrees=True).as_matrix() @ np.diag([1, -1, 1]),
)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def field(rng):
    return DisplacementField(
        rng.normal(scale=5, size=(*OBLIQUE.shape, 3)).astype(np.float32), OBLIQUE
    )


@pytest.fixture
def ct(rng):
    return Volume(rng.integers(-1000, 400, OBLIQUE.shape).astype(np.int16), OBLIQUE)


def points_within(grid, rng, count=50):
    return grid.to_world(rng.random((count, 3)) * (np.array(grid.size) - 1))


def write_dicom(folder, positions, *, array=None, series="1.2.3.1", side=0.0):
    """A CT series with one slice at each position (mm along z), shifted by side * z along y."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, z in enumerate(positions):
        pixels = np.full((5, 6), k, np.int16) if array is None else array[k]
        image = sitk.GetImageFromArray(pixels[None])
        image.SetSpacing((0.7, 0.8, 2.5))
        tags = {
            "0008|0060": "CT",
            "0008|0018": f"{series}.{k + 1}",
            "0020|000d": "1.2.3",
            "0020|000e": series,
            "0020|0013": str(k + 1),
            "0020|0032": f"-10\\{20 + side * z}\\{z}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{series}.{len(positions) - k}.dcm"))
        writer.Execute(image)
    return folder


# Images


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_written_volumes_are_read_back(tmp_path, ct, suffix):
    path = tmp_path / f"ct{suffix}"
    write_volume(ct, path)
    again = read_volume(path)
    np.testing.assert_array_equal(again.array, ct.array)
    assert again.array.dtype == ct.array.dtype
    assert again.grid.matches(ct.grid)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_headers_with_separate_data_are_read(tmp_path, ct, suffix):
    sitk.WriteImage(ct.to_image(), str(tmp_path / f"ct{suffix}"))
    again = read_volume(tmp_path / f"ct{suffix}")
    np.testing.assert_array_equal(again.array, ct.array)
    assert again.grid.matches(ct.grid)


def test_four_dimensions_with_a_single_frame_are_read(tmp_path, ct):
    sitk.WriteImage(sitk.JoinSeries([ct.to_image()]), str(tmp_path / "one.nii.gz"))
    again = read_volume(tmp_path / "one.nii.gz")
    np.testing.assert_array_equal(again.array, ct.array)
    assert again.grid.matches(ct.grid)
    sitk.WriteImage(sitk.JoinSeries([ct.to_image()] * 3), str(tmp_path / "three.nii.gz"))
    with pytest.raises(InputError, match="3 frames"):
        read_volume(tmp_path / "three.nii.gz")


def test_whole_numbers_of_16_bits_stay_so_and_others_become_float32(tmp_path, ct):
    for stored, read in ((np.int16, np.int16), (np.uint16, np.float32), (np.int32, np.float32)):
        array = (ct.array + 2000).astype(stored)
        write_volume(Volume(array, ct.grid), tmp_path / "ct.nrrd")
        again = read_volume(tmp_path / "ct.nrrd").array
        assert again.dtype == read
        np.testing.assert_array_equal(again, array)


def test_some_nan_voxels_become_the_smallest_value(tmp_path):
    array = np.arange(27, dtype=np.float32).reshape(3, 3, 3) - 5
    array[2, 2] = [np.nan, np.inf, -np.inf]
    write_volume(Volume(array, Grid((3, 3, 3))), tmp_path / "ct.mha")
    again = read_volume(tmp_path / "ct.mha").array
    assert again[2, 2].tolist() == [-5, -5, -5]
    np.testing.assert_array_equal(again.ravel()[:24], array.ravel()[:24])
    assert np.isnan(array[2, 2, 0])  # what was given is not changed

    array[:2] = np.nan
    with pytest.raises(InputError, match="mostly made of NaN"):
        checked_volume(Volume(array, Grid((3, 3, 3))))


def test_pictures_vectors_slices_and_constant_images_are_refused(tmp_path, field):
    grid = Grid((4, 4, 4))
    write_volume(Volume(np.zeros(grid.shape, np.int16), grid), tmp_path / "zero.nrrd")
    with pytest.raises(InputError, match="same value everywhere"):
        read_volume(tmp_path / "zero.nrrd")
    write_transform(field, tmp_path / "field.nrrd")
    with pytest.raises(InputError, match="3 values per voxel"):
        read_volume(tmp_path / "field.nrrd")
    sitk.WriteImage(sitk.Image((4, 4), sitk.sitkInt16), str(tmp_path / "flat.mha"))
    with pytest.raises(InputError, match="single slice"):
        read_volume(tmp_path / "flat.mha")
    sitk.WriteImage(sitk.Image((4, 4, 1), sitk.sitkInt16), str(tmp_path / "thin.nii"))
    with pytest.raises(InputError, match="single slice"):
        read_volume(tmp_path / "thin.nii")


@pytest.mark.parametrize("read", [read_volume, read_mask, read_transform])
def test_missing_empty_and_broken_files_are_refused(tmp_path, ct, read):
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "missing.nii.gz")
    (tmp_path / "empty.nrrd").touch()
    with pytest.raises(InputError, match="empty.nrrd cannot be read"):
        read(tmp_path / "empty.nrrd")
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
        write_volume(ct, tmp_path / f"ct{suffix}")
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes((tmp_path / f"ct{suffix}").read_bytes()[:-50])
        with pytest.raises(InputError, match=cut.name):
            read(cut)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_field_cut_short_is_refused(tmp_path, field, suffix):
    write_transform(field, tmp_path / f"field{suffix}")
    content = (tmp_path / f"field{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(content[:-50])
    with pytest.raises(InputError, match="damaged or incomplete"):
        read_transform(tmp_path / f"cut{suffix}")


def test_masks_are_read_and_empty_ones_refused(tmp_path):
    array = np.zeros((3, 3, 3), np.float32)
    array[0, 0] = [2, -1, np.nan]
    write_volume(Volume(array, Grid((3, 3, 3))), tmp_path / "mask.nrrd")
    mask = read_mask(tmp_path / "mask.nrrd").array
    assert mask.dtype == bool and np.argwhere(mask).tolist() == [[0, 0, 0]]

    write_volume(Volume(np.ones((3, 3, 3), bool), Grid((3, 3, 3))), tmp_path / "all.nii.gz")
    assert read_mask(tmp_path / "all.nii.gz").array.all()
    with pytest.raises(InputError, match="none of the labels asked for; it has 1"):
        read_mask(tmp_path / "all.nii.gz", [2])
    write_volume(Volume(np.zeros((3, 3, 3), bool), Grid((3, 3, 3))), tmp_path / "none.nii.gz")
    with pytest.raises(InputError, match="is empty"):
        read_mask(tmp_path / "none.nii.gz")


# DICOM


def test_a_dicom_folder_gives_hounsfield_units_in_place(tmp_path, rng):
    array = rng.integers(0, 2000, (4, 5, 6)).astype(np.int16)
    folder = write_dicom(tmp_path / "ct", [10.0, 12.5, 15.0, 17.5], array=array - 1024)
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.array, array - 1024)
    assert volume.grid.matches(Grid((6, 5, 4), (0.7, 0.8, 2.5), (-10, 20, 10)))


@pytest.mark.parametrize(
    "positions, side, said",
    [
        ([0, 2.5, 7.5, 10], 0, "2.50 to 5.00 mm apart"),
        ([0, 2.5, 2.5, 5.0], 0, "at one position"),
        ([0, 2.5, 5, 7.5], 0.3, "gantry tilt"),
        ([0], 0, "single slice"),
        ([], 0, "no DICOM series"),
    ],
)
def test_incomplete_dicom_folders_are_refused(tmp_path, positions, side, said):
    with pytest.raises(InputError, match=said):
        read_volume(write_dicom(tmp_path / "ct", positions, side=side))


def test_a_folder_of_two_series_is_refused_with_their_list(tmp_path):
    write_dicom(tmp_path / "ct", [0, 2.5])
    write_dicom(tmp_path / "ct", [0, 2.5, 5], series="1.2.3.2")
    with pytest.raises(InputError, match=r"2 series.*1\.2\.3\.1 \(2 files\).*2 \(3 files\)"):
        read_volume(tmp_path / "ct")


# Transforms


def opened_in_slicer(path):
    """A scene with the transform of this file, its node and its storage node; or a skip."""
    slicer = pytest.importorskip("slicer")
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    storage = scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return scene, node, storage


@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".nrrd", ".mha", ".nii", ".nii.gz"])
def test_simpleitk_and_slicer_read_the_written_field_alike(tmp_path, field, rng, suffix):
    path = tmp_path / f"field{suffix}"
    write_transform(field, path)
    assert os.listdir(tmp_path) == [path.name]
    points = points_within(field.grid, rng)
    expected = field.transform_points(points)

    transform = read_transform(path)
    moved = [transform.TransformPoint(p) for p in points.tolist()]
    np.testing.assert_allclose(moved, expected, atol=1e-3)
    again = DisplacementField.of_transform(transform, field.grid)
    np.testing.assert_allclose(again.array, field.array, atol=1e-3)

    _scene, node, storage = opened_in_slicer(path)
    assert storage.GetUserMessages().GetNumberOfMessages() == 0
    from_parent = node.GetTransformFromParent()
    from_parent.SetInterpolationModeToLinear()  # Slicer interpolates a field from a file cubically
    ras = (-1, -1, 1)
    moved = [np.multiply(from_parent.TransformPoint(p), ras) for p in (points * ras).tolist()]
    np.testing.assert_allclose(moved, expected, atol=1e-3)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd", ".nii.gz", ".h5", ".tfm"])
def test_fields_written_by_slicer_are_read(tmp_path, field, rng, suffix):
    write_transform(field, tmp_path / "ours.nrrd")
    _scene, node, storage = opened_in_slicer(tmp_path / "ours.nrrd")
    storage.SetFileName(str(tmp_path / f"theirs{suffix}"))
    assert storage.WriteData(node)
    transform = read_transform(tmp_path / f"theirs{suffix}")
    points = points_within(field.grid, rng)
    moved = [transform.TransformPoint(p) for p in points.tolist()]
    np.testing.assert_allclose(moved, field.transform_points(points), atol=1e-3)


def test_a_field_of_the_inverse_direction_is_refused(tmp_path, field):
    write_transform(field, tmp_path / "ours.nrrd")
    _scene, node, storage = opened_in_slicer(tmp_path / "ours.nrrd")
    node.Inverse()
    storage.SetFileName(str(tmp_path / "inverse.nrrd"))
    assert storage.WriteData(node)
    with pytest.raises(InputError, match="modeling field"):
        read_transform(tmp_path / "inverse.nrrd")


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".mat", ".h5"])
def test_linear_and_composite_transforms_are_read(tmp_path, suffix):
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((1.1, 0.1, 0, 0, 0.9, 0, 0.2, 0, 1))
    affine.SetTranslation((5, -6, 7))
    sitk.WriteTransform(affine, str(tmp_path / f"affine{suffix}"))
    read = read_transform(tmp_path / f"affine{suffix}")
    expected = affine.TransformPoint((1, 2, 3))
    np.testing.assert_allclose(read.TransformPoint((1, 2, 3)), expected, atol=1e-6)
    if suffix in (".tfm", ".h5"):
        both = sitk.CompositeTransform([affine, sitk.TranslationTransform(3, (1.0, 2.0, 3.0))])
        sitk.WriteTransform(both, str(tmp_path / f"both{suffix}"))
        read = read_transform(tmp_path / f"both{suffix}")
        expected = both.TransformPoint((1, 2, 3))
        np.testing.assert_allclose(read.TransformPoint((1, 2, 3)), expected, atol=1e-6)


def test_other_things_are_refused_as_transforms(tmp_path, ct, field):
    write_volume(ct, tmp_path / "ct.nii.gz")
    with pytest.raises(InputError, match="not a displacement field"):
        read_transform(tmp_path / "ct.nii.gz")
    (tmp_path / "notes.txt").write_text("remember the milk")
    with pytest.raises(InputError, match="notes.txt cannot be read as a transform"):
        read_transform(tmp_path / "notes.txt")
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "flat.tfm"))
    with pytest.raises(InputError, match="is 2-D"):
        read_transform(tmp_path / "flat.tfm")
    (tmp_path / "notes.docx").touch()
    with pytest.raises(InputError, match=r"\.h5.*\.nii\.gz"):
        read_transform(tmp_path / "notes.docx")
    field.array[1, 1, 1, 0] = np.nan
    write_transform(field, tmp_path / "nan.nrrd")
    with pytest.raises(InputError, match="not numbers"):
        read_transform(tmp_path / "nan.nrrd")


def test_a_sheared_grid_is_refused(tmp_path):
    sheared = Grid((3, 3, 3), direction=(1, 0, 0.2, 0, 1, 0, 0, 0, 1))
    with pytest.raises(InputError, match="sheared"):
        write_transform(DisplacementField.zeros(sheared), tmp_path / "field.h5")


# Writing


@pytest.mark.parametrize("name", ["field.mhd", "field.nhdr", "field.txt", "field.png", "field"])
def test_unknown_suffixes_are_refused_with_the_supported_ones(tmp_path, field, name):
    with pytest.raises(InputError, match=r"\.h5, \.tfm, \.nii, \.nii\.gz, \.nrrd, \.mha"):
        write_transform(field, tmp_path / name)
    with pytest.raises(InputError, match=r"\.nii, \.nii\.gz, \.nrrd, \.mha"):
        write_volume(Volume(np.zeros(OBLIQUE.shape), OBLIQUE), tmp_path / name)
    assert not os.listdir(tmp_path)


def test_atomic_replaces_on_success_only(tmp_path):
    path = tmp_path / "Result.NII.GZ"
    path.write_text("old")
    with pytest.raises(KeyError), atomic(path) as temporary:
        assert temporary.parent == tmp_path and temporary.name.endswith(".nii.gz")
        temporary.write_text("half")
        raise KeyError("stopped")
    assert path.read_text("utf-8") == "old" and os.listdir(tmp_path) == [path.name]
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text("utf-8") == "old"
    assert path.read_text("utf-8") == "new" and os.listdir(tmp_path) == [path.name]


def test_places_that_cannot_be_written_are_refused(tmp_path, field):
    with pytest.raises(InputError, match="folder .* does not exist"):
        write_transform(field, tmp_path / "nowhere" / "field.h5")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_transform(field, tmp_path / "folder.h5")
    with pytest.raises(InputError, match="No space left"), atomic(tmp_path / "full.csv"):
        raise OSError(28, "No space left on device")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_protected_folder_is_refused(tmp_path, field):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written to"):
        write_transform(field, tmp_path / "field.h5")


def test_written_files_have_the_usual_permissions(tmp_path, field):
    (tmp_path / "plain").touch()
    write_transform(field, tmp_path / "field.nii.gz")
    assert (tmp_path / "field.nii.gz").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Files that are not quite what their names say


def nifti(path, ct, form):
    """The image as NIfTI-1, its bytes changed by `form`."""
    plain = path.parent / "plain.nii"
    write_volume(ct, plain)
    path.write_bytes(form(plain.read_bytes()))
    return path


def nifti2(content):
    """The bytes of a NIfTI-1 file with the header of NIfTI-2 as far as readers look at it."""
    return (540).to_bytes(4, "little") + b"n+2\0\r\n\032\n" + bytes(532) + content[352:]


@pytest.mark.parametrize(
    "form",
    {
        "not compressed": lambda c: c,
        "zeros behind": lambda c: gzip.compress(c) + bytes(700),
        "text behind": lambda c: gzip.compress(c) + b"end of file" * 60,
        "in two parts": lambda c: gzip.compress(c[:500]) + gzip.compress(c[500:]),
    }.items(),
    ids=lambda item: item[0],
)
def test_packed_nifti_of_every_kind_is_read(tmp_path, ct, form):
    again = read_volume(nifti(tmp_path / "ct.nii.gz", ct, form[1]))
    np.testing.assert_array_equal(again.array, ct.array)
    assert again.grid.matches(ct.grid)


@pytest.mark.parametrize(
    "name, form, said",
    [
        ("ct.nii", gzip.compress, "compressed, against its name: rename it to .nii.gz"),
        ("ct.nii", nifti2, "NIfTI-2 file.*save it as NIfTI-1"),
        ("ct.nii.gz", lambda c: gzip.compress(nifti2(c)), "NIfTI-2 file.*save it as NIfTI-1"),
        ("ct.nii.gz", lambda c: gzip.compress(c[:-9]), "damaged or incomplete"),
        ("ct.nii.gz", lambda c: gzip.compress(c)[:-60], "damaged or incomplete|cannot be read"),
        ("ct.nii.gz", lambda c: c[:-9], "damaged or incomplete"),
        ("ct.nii.gz", lambda c: gzip.compress(c[:-9]) + bytes(99), "damaged or incomplete"),
    ],
)
def test_nifti_that_cannot_be_read_says_why(tmp_path, ct, name, form, said):
    with pytest.raises(InputError, match=f"{name}.*({said})"):
        read_volume(nifti(tmp_path / name, ct, form))


def thin_plate_spline(path):
    sitk.WriteTransform(sitk.Euler3DTransform(), str(path))
    name = "InverseThinPlateSplineKernelTransform"
    path.write_text(path.read_text("utf-8").replace("Euler3DTransform", name))


def not_a_number(path):
    turn = sitk.Euler3DTransform()
    turn.SetTranslation((1, 2, 3))
    sitk.WriteTransform(turn, str(path))
    path.write_text(path.read_text("utf-8").replace("1 2 3", "1 nan 3"))


def cut_short(path):
    sitk.WriteTransform(sitk.Euler3DTransform(), str(path))
    path.write_bytes(path.read_bytes()[:-40])


def nan_in_a_part(path):
    array = np.zeros((4, 4, 4, 3))
    array[1, 1, 1] = np.nan
    field = sitk.DisplacementFieldTransform(sitk.GetImageFromArray(array, isVector=True))
    sitk.WriteTransform(sitk.CompositeTransform([sitk.Euler3DTransform(), field]), str(path))


@pytest.mark.parametrize(
    "name, write, said",
    [
        ("spline.tfm", thin_plate_spline, "holds a InverseThinPlate.*convert it"),
        ("turn.tfm", not_a_number, "parameters that are not numbers"),
        ("cut.h5", cut_short, "damaged or incomplete"),
        ("text.h5", lambda p: p.write_text("no transform"), "no HDF5 file"),
        ("start.h5", lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n"), "damaged or incomplete"),
        (
            "empty.h5",
            lambda p: sitk.WriteTransform(sitk.CompositeTransform(3), str(p)),
            "empty composite",
        ),
        ("part.h5", nan_in_a_part, "displacements that are not numbers"),
        ("matrix.txt", lambda p: p.write_text("1 0 0 0\n0 1 0 0"), "cannot be read.*save it as"),
    ],
)
def test_transform_files_that_cannot_be_used_say_why(tmp_path, name, write, said):
    write(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}.*{said}") as refusal:
        read_transform(tmp_path / name)
    assert len(str(refusal.value).replace(str(tmp_path), "")) < 200


def test_a_thin_plate_spline_of_slicer_is_refused_with_its_name(tmp_path):
    slicer = pytest.importorskip("slicer")
    vtk = pytest.importorskip("vtk")
    spline, points = vtk.vtkThinPlateSplineTransform(), vtk.vtkPoints()
    for point in [(0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9), (5, 5, 5)]:
        points.InsertNextPoint(point)
    spline.SetSourceLandmarks(points)
    spline.SetTargetLandmarks(points)
    spline.SetBasisToR()
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformToParent(spline)
    storage = scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
    storage.SetFileName(str(tmp_path / "spline.h5"))
    assert storage.WriteData(node)
    with pytest.raises(InputError, match="holds a InverseThinPlateSplineKernelTransform"):
        read_transform(tmp_path / "spline.h5")


@pytest.mark.parametrize(
    "positions, said",
    [
        ([0, 2.5, 5, 7.5, 5, 7.5, 10], "at one position, at 2 of them"),
        ([0, 2.5, 5, 2.5, 5, 7.5], "at one position, at 2 of them"),
        ([0, 2.5, 5, 7.5, 5, 2.5, 0], "at one position"),
        ([0, 2.5, 5, 12.5, 15], "2.50 to 7.50 mm apart"),
        ([0, 2.5, 5, -10, -12.5], "2.50 to 10.00 mm apart"),
    ],
)
def test_a_second_acquisition_in_the_folder_is_noticed(tmp_path, positions, said):
    with pytest.raises(InputError, match=said):
        read_volume(write_dicom(tmp_path / "ct", positions))


def test_slices_are_stacked_by_position_whatever_their_order(tmp_path):
    array = np.tile(np.arange(5, dtype=np.int16)[:, None, None], (1, 5, 6))
    positions = [5.0, 0.0, 10.0, 2.5, 7.5]
    volume = read_volume(write_dicom(tmp_path / "ct", positions, array=array))
    assert volume.array[:, 0, 0].tolist() == [1, 3, 0, 4, 2]
    assert volume.grid.matches(Grid((6, 5, 5), (0.7, 0.8, 2.5), (-10, 20, 0)))


@pytest.fixture
def comma(tmp_path_factory, monkeypatch):
    """A language that writes 2,5 for two and a half; compiled where none is installed."""
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        locale.setlocale(locale.LC_NUMERIC, "de_DE.UTF-8")
    except locale.Error:
        if shutil.which("localedef") is None:
            pytest.skip("no language with a decimal comma is installed")
        folder = tmp_path_factory.mktemp("locales")
        subprocess.run(
            ["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")], check=False
        )
        monkeypatch.setenv("LOCPATH", str(folder))
        locale.setlocale(locale.LC_NUMERIC, "de_DE.UTF-8")
    yield
    locale.setlocale(locale.LC_NUMERIC, before)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_a_decimal_comma_changes_no_file(tmp_path, ct, comma, suffix):
    write_volume(ct, tmp_path / f"ct{suffix}")
    assert read_volume(tmp_path / f"ct{suffix}").grid.matches(ct.grid)
    assert locale.localeconv()["decimal_point"] == ","
