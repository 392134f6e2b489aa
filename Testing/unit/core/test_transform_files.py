"""Transforms are written as SimpleITK and Slicer read them, and read as they write them."""

import os

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import (
    read_transform,
    write_transform,
    write_volume,
)
from L2ORegistrationLib.core.geometry import DisplacementField, Grid
from oblique import points_within


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_field_cut_short_is_refused(tmp_path, field, suffix):
    write_transform(field, tmp_path / f"field{suffix}")
    content = (tmp_path / f"field{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(content[:-50])
    with pytest.raises(InputError, match="damaged or incomplete"):
        read_transform(tmp_path / f"cut{suffix}")


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
