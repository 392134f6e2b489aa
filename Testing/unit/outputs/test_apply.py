"""Contours, images and dose arrive where the transform leads, and say how."""

import copy
import json
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.cli import main
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import (
    write_transform,
    write_volume,
)
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.outputs import contours, dicom, fields, images, labels
from L2ORegistrationLib.outputs.record import Record, Scan
from moved import CENTRE, GRID, SHIFT, ball, refused, shift

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("contourpy")


@pytest.fixture
def ct(tmp_path):
    return series(tmp_path / "ct", "1.2.3.4")


def series(folder, frame):
    """A DICOM folder of GRID with nothing but what its readers need."""
    folder.mkdir()
    for k in range(GRID.size[2]):
        data = dicom._new("1.2.840.10008.5.1.4.1.1.2", "CT", pydicom.Dataset())
        data.PatientName, data.PatientID = "Phantom^One", "P1"
        data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3", "1.2.3." + frame[-1]
        data.FrameOfReferenceUID = frame
        data.ImagePositionPatient = list(GRID.to_world((0, 0, k)))
        data.ImageOrientationPatient, data.PixelSpacing = [1, 0, 0, 0, 1, 0], [1.5, 1.5]
        data.SliceThickness, data.InstanceNumber = 3, k + 1
        data.Rows, data.Columns, data.SamplesPerPixel = 44, 48, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 1
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelData = np.full((44, 48), k, np.int16).tobytes()
        data.save_as(folder / f"{k:02}.dcm", enforce_file_format=True)
    return folder


def ring(centre, radius, count=60):
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    around = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=-1)
    return centre + radius * around


def cylinder(name="Tumour", radius=9.0, colour=(10, 200, 30)):
    """A cylinder on the slices 7 to 13, with a hole."""
    slices = [CENTRE + [0, 0, 3.0 * k] for k in range(-3, 4)]
    outlines = [ring(c, r) for c in slices for r in (radius, radius / 3)]
    return contours.Structure(name, colour, outlines, number=7)


@pytest.fixture
def structures(ct, tmp_path):
    names = pydicom.Dataset()
    names.StructureSetROISequence = [dicom._item(ROINumber=7, ROIName="Tumour")]
    path = tmp_path / "rs.dcm"
    dicom.structures_dataset([cylinder()], names, ct).save_as(path, enforce_file_format=True)
    return path


def test_a_shape_is_its_contours_and_half_a_slice_more():
    shape = cylinder().shape()
    assert shape.at(CENTRE + [6, 0, 0]) == pytest.approx(-3, abs=0.1)
    assert shape.at(CENTRE) == pytest.approx(3, abs=0.1)  # in the hole
    assert shape.at(CENTRE + [6, 0, 10.4]) < 0 < shape.at(CENTRE + [6, 0, 10.6])


def test_the_volume_of_a_shape_is_known():
    ring_ml = np.pi * (9**2 - 3**2) * 7 * 3 / 1000  # seven slices, 3 mm apart
    assert cylinder().shape().millilitres() == pytest.approx(ring_ml, rel=0.01)


def test_how_far_each_structure_moved_is_told(ct, structures, transform, tmp_path, capsys):
    arguments = [transform, structures, "-o", tmp_path / "m.dcm", "--reference", ct, "--json"]
    assert main(["apply", *map(str, arguments)]) == 0
    told = json.loads(capsys.readouterr().out)
    before, after = told["ml before and after"]["Tumour"]
    assert after == pytest.approx(before, rel=0.02)
    assert told["centre_moved_mm"]["Tumour"] == pytest.approx(np.linalg.norm(SHIFT), abs=0.6)


def test_structures_of_another_scan_are_told(ct, structures, transform, tmp_path, capsys):
    other = series(tmp_path / "other", "1.2.3.5")
    reversed_roles = Record("good", (), Scan.of(GRID, ct), Scan.of(GRID, other))
    reversed_roles.write(transform)
    arguments = [transform, structures, "-o", tmp_path / "m.dcm", "--reference", ct, "--json"]
    assert main(["apply", *map(str, arguments)]) == 0
    (told,) = json.loads(capsys.readouterr().out)["warnings"]
    assert "rs.dcm has another frame of reference than the moving scan" in told
    assert "that of the fixed one" in told


def test_two_regions_of_one_name_stay_two(ct, structures, transform, tmp_path):
    data = pydicom.dcmread(structures)
    for sequence, key in (
        (data.StructureSetROISequence, "ROINumber"),
        (data.ROIContourSequence, "ReferencedROINumber"),
    ):
        sequence.append(copy.deepcopy(sequence[0]))
        setattr(sequence[1], key, 9)
    data.save_as(structures)
    out = tmp_path / "moved.dcm"
    arguments = [transform, structures, "-o", out, "--reference", ct]
    assert main(["apply", *map(str, arguments)]) == 0
    moved = pydicom.dcmread(out)
    assert [roi.ROINumber for roi in moved.StructureSetROISequence] == [7, 9]
    assert [roi.ReferencedROINumber for roi in moved.ROIContourSequence] == [7, 9]


def test_what_is_read_is_not_written_over(ct, structures, transform, capsys):
    before = structures.read_bytes()
    arguments = [transform, structures, "-o", structures, "--reference", ct]
    assert main(["apply", *map(str, arguments)]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert main(["invert", str(transform), "-o", str(transform)]) == 2
    assert structures.read_bytes() == before


def test_structures_move_as_the_transform_says(ct, structures, transform, tmp_path):
    out = tmp_path / "moved.dcm"
    arguments = [transform, structures, "-o", out, "--reference", ct, "--source", ct]
    assert main(["apply", *map(str, arguments)]) == 0
    (found,), data = contours.read_structures(out)
    assert (found.name, found.colour) == ("Tumour", (10, 200, 30))
    assert contours.frame_of_reference(data) == "1.2.3.4"
    assert data.PatientID == "P1" and data.ROIContourSequence[0].ReferencedROINumber == 7
    everything = np.concatenate(found.contours)
    assert np.allclose(everything.mean(axis=0), CENTRE - SHIFT, atol=0.1)
    assert len(found.contours) == 14  # outline and hole on each of seven slices
    radii = np.linalg.norm((everything - (CENTRE - SHIFT))[:, :2], axis=1)
    assert np.minimum(abs(radii - 9), abs(radii - 3)).max() < 0.15
    image = {s.SOPInstanceUID: s.ImagePositionPatient[2] for s in dicom.slices_of(ct)}
    for contour in data.ROIContourSequence[0].ContourSequence:
        named = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        assert image[named] == pytest.approx(float(contour.ContourData[2]))


def test_back_and_forth_directions_are_opposite(ct, structures, transform, tmp_path):
    out = tmp_path / "moved.dcm"
    arguments = [transform, structures, "-o", out, "--reference", ct, "--to", "moving"]
    assert main(["apply", *map(str, arguments)]) == 0
    (found,), _ = contours.read_structures(out)
    assert np.allclose(np.concatenate(found.contours).mean(axis=0), CENTRE + SHIFT, atol=0.1)


def test_how_sure_an_image_is_cannot_be_asked(transform, ct, tmp_path, capsys):
    write_volume(Volume(ball(CENTRE).astype(np.float32), GRID), tmp_path / "c.nrrd")
    arguments = ["apply", transform, tmp_path / "c.nrrd", "-o", tmp_path / "d.nrrd"]
    arguments += ["--reference", ct, "--confidence", tmp_path / "c.nrrd"]
    assert main(list(map(str, arguments))) == 2
    assert "say how sure points are" in capsys.readouterr().err
    assert not (tmp_path / "d.nrrd").exists()


def dose_file(path, ct, grid, array):
    data = dicom._new(images.DOSE_SOP, "RTDOSE", dicom.slices_of(ct)[0])
    data.DoseUnits, data.DoseType, data.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    dicom.dose_dataset(Volume(array, grid), data, ct).save_as(path, enforce_file_format=True)


def test_dose_moves_with_the_tissue_and_keeps_its_height(ct, transform, tmp_path):
    grid = Grid((24, 22, 20), (3.0, 3.0, 3.0), GRID.origin)
    dose = 60 * np.exp(-(np.linalg.norm(grid.points() - CENTRE, axis=-1) ** 2) / 200)
    dose_file(tmp_path / "d.dcm", ct, grid, dose.astype(np.float32))
    again, _ = images.read_dose(tmp_path / "d.dcm")
    assert again.grid.matches(grid) and np.allclose(again.array, dose, atol=1e-5)
    out = tmp_path / "m.dcm"
    given = [transform, tmp_path / "d.dcm", "-o", out, "--reference", ct]
    assert main(["apply", *map(str, given)]) == 0
    moved, data = images.read_dose(out)
    assert moved.grid.matches(GRID) and data.FrameOfReferenceUID == "1.2.3.4"
    exact = 60 * np.exp(-(np.linalg.norm(GRID.points() + SHIFT - CENTRE, axis=-1) ** 2) / 200)
    inner = (slice(2, -4), slice(6, -3), slice(3, -4))  # the dose grid ends near the border
    assert np.abs(moved.array - exact)[inner].max() < 0.6


def test_a_dose_that_finds_the_disk_full_ends_in_a_sentence(
    ct, transform, tmp_path, capsys, room_for
):
    grid = Grid((24, 22, 20), (3.0, 3.0, 3.0), GRID.origin)
    noise = np.random.default_rng(0).uniform(0, 60, grid.shape).astype(np.float32)
    dose_file(tmp_path / "d.dcm", ct, grid, noise)
    for name, said in (("m.nrrd", "is there space left"), ("m.dcm", "free some space")):
        given = [transform, tmp_path / "d.dcm", "-o", tmp_path / name, "--reference", ct]
        with room_for(100):
            code = main(["apply", *map(str, given)])
        assert code == 2 and said in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / name).exists()


def test_a_moved_dose_has_no_histograms_of_the_old_anatomy(ct, transform, tmp_path):
    grid = Grid((24, 22, 20), (3.0, 3.0, 3.0), GRID.origin)
    dose_file(tmp_path / "d.dcm", ct, grid, np.full(grid.shape, 20.0, np.float32))
    data = pydicom.dcmread(tmp_path / "d.dcm")
    data.DVHSequence, data.DVHNormalizationDoseValue = [dicom._item(DVHType="CUMULATIVE")], 50
    data.save_as(tmp_path / "d.dcm")
    given = [transform, tmp_path / "d.dcm", "-o", tmp_path / "m.dcm", "--reference", ct]
    assert main(["apply", *map(str, given)]) == 0
    moved = pydicom.dcmread(tmp_path / "m.dcm")
    assert "DVHSequence" not in moved and "DVHNormalizationDoseValue" not in moved
    assert moved.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian


@pytest.mark.parametrize("first", [0.0, 100.0], ids=["offsets", "coordinates"])
@pytest.mark.parametrize("step", [3.0, -3.0])
@pytest.mark.parametrize("across", [1.0, -1.0], ids=["head first", "feet first"])
def test_planes_of_a_dose_lie_where_they_say(ct, tmp_path, across, step, first):
    """Offsets count along the normal, which points down feet first; coordinates always point up."""
    dose_file(tmp_path / "d.dcm", ct, GRID, np.ones(GRID.shape, np.float32))
    data = pydicom.dcmread(tmp_path / "d.dcm")
    data.ImageOrientationPatient, data.ImagePositionPatient = [across, 0, 0, 0, 1, 0], [9, 8, 100]
    data.GridFrameOffsetVector = [first + step * k for k in range(GRID.size[2])]
    data.save_as(tmp_path / "d.dcm")
    grid = images.read_dose(tmp_path / "d.dcm")[0].grid
    second = 100 + step * (1 if first else across)
    assert np.allclose(grid.to_world((0, 0, 1)), (9, 8, second))


def test_a_difference_of_doses_is_refused(ct, tmp_path):
    dose_file(tmp_path / "d.dcm", ct, GRID, np.ones(GRID.shape, np.float32))
    data = pydicom.dcmread(tmp_path / "d.dcm")
    data.PixelRepresentation, data.DoseType = 1, "ERROR"
    data.PixelData = np.full(GRID.shape, -1, "<i4").tobytes()
    data.save_as(tmp_path / "d.dcm")
    with pytest.raises(InputError, match="negative doses.* move both doses, then subtract"):
        images.read_dose(tmp_path / "d.dcm")


@pytest.mark.parametrize("planes", [None, [], 0.0])
def test_a_dose_of_one_plane_is_refused(ct, tmp_path, planes):
    dose_file(tmp_path / "d.dcm", ct, GRID, np.ones(GRID.shape, np.float32))
    data = pydicom.dcmread(tmp_path / "d.dcm")
    data.GridFrameOffsetVector = planes
    if planes is None:
        del data.GridFrameOffsetVector
    data.save_as(tmp_path / "d.dcm")
    with pytest.raises(InputError, match="a single plane"):
        images.read_dose(tmp_path / "d.dcm")


def test_a_registration_in_dicom_reads_back_to_the_bit(ct, tmp_path):
    other = series(tmp_path / "other", "1.2.3.5")
    rng = np.random.default_rng(0)
    field = DisplacementField(
        rng.normal(size=(5, 6, 7, 3)).astype(np.float32),
        Grid((7, 6, 5), (6.0, 6.0, 6.0), (-126.25, -104.2, 3.1), Grid((1, 1, 1)).direction),
    )
    dicom.write_registration(field, ct, other, tmp_path / "reg.dcm")
    data = pydicom.dcmread(tmp_path / "reg.dcm")
    (item,) = [
        i for i in data.DeformableRegistrationSequence if "DeformableRegistrationGridSequence" in i
    ]
    (grid,) = item.DeformableRegistrationGridSequence
    again = np.frombuffer(grid.VectorGridData, "<f4").reshape(field.array.shape)
    assert np.array_equal(again, field.array)
    assert list(grid.GridDimensions) == [7, 6, 5] and list(grid.GridResolution) == [6, 6, 6]
    assert list(grid.ImagePositionPatient) == list(field.grid.origin)
    assert list(grid.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert data.FrameOfReferenceUID == "1.2.3.4"
    assert data.DeformableRegistrationSequence[0].SourceFrameOfReferenceUID == "1.2.3.5"


def test_structures_of_another_frame_are_refused(ct, structures, transform, tmp_path, capsys):
    other = series(tmp_path / "other", "1.2.3.5")
    said = refused(
        capsys, tmp_path, "apply", transform, structures, "-o", tmp_path / "x.dcm",
        "--reference", ct, "--source", other,
    )  # fmt: skip
    assert "another frame of reference" in said


def test_a_dose_without_overlap_is_refused(ct, transform, tmp_path, capsys):
    grid = Grid((10, 10, 10), (3.0, 3.0, 3.0), (900.0, 900.0, 900.0))
    dose_file(tmp_path / "d.dcm", ct, grid, np.ones(grid.shape, np.float32))
    said = refused(
        capsys, tmp_path, "apply", transform, tmp_path / "d.dcm", "-o", tmp_path / "x.dcm",
        "--reference", ct,
    )  # fmt: skip
    assert "do not overlap" in said


def test_empty_structures_and_labels_are_refused(tmp_path):
    with pytest.raises(InputError, match="Tumour is empty"):
        contours.Structure("Tumour", (1, 2, 3), []).shape()
    with pytest.raises(InputError, match="empty"):
        labels.warp_labels(sitk.Image((4, 4, 4), sitk.sitkUInt8), shift(), GRID)


def test_labels_far_away_are_refused():
    far = Volume(np.ones((4, 4, 4), np.uint8), Grid((4, 4, 4), origin=(900.0, 0, 0))).to_image()
    with pytest.raises(InputError, match="None of the labels"):
        labels.warp_labels(far, shift(), GRID)


def test_without_a_reference_the_user_is_asked_for_one(transform, tmp_path, capsys):
    write_volume(Volume(ball(CENTRE).astype(np.uint8), GRID), tmp_path / "l.nii.gz")
    said = refused(
        capsys, tmp_path, "apply", transform, tmp_path / "l.nii.gz", "-o", tmp_path / "x.nrrd"
    )
    assert "--reference" in said


def test_a_dicom_registration_needs_dicom_images(tmp_path, capsys):
    volume = Volume(np.arange(4.0**3, dtype=np.float32).reshape(4, 4, 4), Grid((4, 4, 4)))
    write_volume(volume, tmp_path / "f.nii.gz")
    said = refused(
        capsys, tmp_path, "register", tmp_path / "f.nii.gz", tmp_path / "f.nii.gz",
        "-o", tmp_path / "t.h5", "--dicom", tmp_path / "r.dcm",
    )  # fmt: skip
    assert "not a DICOM folder" in said


def test_a_missing_folder_is_refused_before_the_work(transform, structures, ct, tmp_path, capsys):
    said = refused(
        capsys, tmp_path, "apply", transform, structures, "-o", tmp_path / "no" / "x.dcm",
        "--reference", ct,
    )  # fmt: skip
    assert "does not exist" in said


def test_invert_writes_an_inverse_that_simpleitk_follows(transform, tmp_path):
    out = tmp_path / "inverse.h5"
    assert main(["invert", str(transform), "-o", str(out)]) == 0
    back = sitk.ReadTransform(str(out))
    assert np.allclose(back.TransformPoint((CENTRE + SHIFT).tolist()), CENTRE, atol=1e-3)


def test_a_transform_that_folds_is_named(tmp_path, capsys):
    field = shift()
    field.array[6, 6, 6, 0] = -30
    write_transform(field, tmp_path / "t.nrrd")
    write_volume(Volume(ball(CENTRE).astype(np.uint8), GRID), tmp_path / "l.nii.gz")
    given = [
        tmp_path / "t.nrrd", tmp_path / "l.nii.gz", "-o", tmp_path / "m.nii.gz", "--labels",
        "--reference", tmp_path / "l.nii.gz", "--json",
    ]  # fmt: skip
    assert main(["apply", *map(str, given)]) == 0
    assert "folds in" in json.loads(capsys.readouterr().out)["warnings"][0]


def test_without_pydicom_the_user_is_told_how_to_get_it(structures, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"pip install -e '.\[dicom\]'"):
        contours.read_structures(structures)


def test_a_motion_goes_on_beyond_its_lattice_on_nodes_of_its_own():
    """With its edge value, on a turned and anisotropic grid, and exactly as before within it."""
    turn = np.linalg.qr(np.array([[1, 0.3, 0.1], [-0.3, 1, 0.2], [-0.1, -0.2, 1]]))[0]
    grid = Grid((9, 8, 20), (3.0, 3.0, 0.75), (5.0, -6.0, 7.0), turn)
    motion = DisplacementField(
        np.random.default_rng(0).normal(0, 5, (*grid.shape, 3)).astype(np.float32), grid
    )
    target = Grid((30, 30, 30), (2.0, 2.0, 2.0), (-20.0, -30.0, -20.0))
    wider = fields.extended(motion, target)
    assert wider.grid.spacing == grid.spacing and wider.grid.contains(target.corners()).all()
    inside = Grid((2, 2, 2), (1.0, 1.0, 1.0), tuple(grid.to_world((4, 4, 9))))
    assert fields.extended(motion, inside) is motion
    points = target.points().reshape(-1, 3)[::7]
    np.testing.assert_allclose(wider.sample(points), motion.sample(points), atol=1e-3)


def test_a_label_map_that_is_taken_for_an_image_is_told_of(transform, ct, tmp_path, capsys):
    values = np.where(ball(CENTRE), 4, 0).astype(np.uint8)
    write_volume(Volume(values, GRID), tmp_path / "labels.nrrd")
    command = ["apply", transform, tmp_path / "labels.nrrd", "-o", tmp_path / "out.nrrd"]
    command = [str(part) for part in (*command, "--reference", ct)]
    assert main(command) == 0
    assert "give --labels" in capsys.readouterr().err
    assert main([*command, "--labels"]) == 0
    assert "give --labels" not in capsys.readouterr().err


def test_a_source_is_of_structures_only(transform, ct, tmp_path, capsys):
    write_volume(Volume(np.zeros(GRID.shape, np.float32), GRID), tmp_path / "image.nrrd")
    command = ["apply", transform, tmp_path / "image.nrrd", "-o", tmp_path / "out.nrrd"]
    assert main([*map(str, command), "--reference", str(ct), "--source", str(ct)]) == 2
    assert "RT structures only" in capsys.readouterr().err and not (tmp_path / "out.nrrd").exists()


def test_an_image_of_integers_is_rounded_and_not_cut_off():
    """Half a voxel further, -4 and -5 are -4.5, and 0.7 is 1."""
    grid = Grid((8, 6, 6), (1.0, 1.0, 1.0))
    values = np.broadcast_to(np.int16([-4, -5, -4, -5, -7, -8, -7, -8]), grid.shape)
    half = DisplacementField(np.full((*grid.shape, 3), (0.7, 0, 0), np.float32), grid)
    moved = images.warp_image(Volume(np.ascontiguousarray(values), grid), half, grid, -9.0)
    assert moved.array.dtype == np.int16
    assert moved.array[3, 3, :7].tolist() == [-5, -4, -5, -6, -8, -7, -8]


def test_damaged_dicom_is_refused(ct, structures, transform, tmp_path, capsys):
    dose_file(tmp_path / "d.dcm", ct, GRID, np.ones(GRID.shape, np.float32))
    for path in (structures, tmp_path / "d.dcm"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
        given = [path, "-o", tmp_path / "x.dcm", "--reference", ct]
        assert "export it again" in refused(capsys, tmp_path, "apply", transform, *given)


def test_surfaces_that_are_not_read_are_named(ct, transform, tmp_path, capsys):
    (tmp_path / "s.stl").write_text("solid")
    given = [tmp_path / "s.stl", "-o", tmp_path / "x.stl"]
    said = refused(capsys, tmp_path, "apply", transform, *given)
    assert "save it as one of .obj, .ply, .vtk" in said


def test_a_dicom_folder_is_brought_over_without_noise(ct, transform, tmp_path, capfd):
    Record("good", (), Scan.of(GRID, ct), Scan.of(GRID, ct)).write(transform)
    given = [transform, ct, "-o", tmp_path / "m.nrrd", "--reference", ct]
    assert main(["apply", *map(str, given)]) == 0
    assert "HDF5" not in capfd.readouterr().err


def test_a_slice_that_stays_empty_is_told(ct, transform, tmp_path, capsys):
    sides = {-2: -7, -1: -7, 0: 7, 1: 7}  # of slices: the middle two do not overlap
    outlines = [ring(CENTRE + [x, 0, 3.0 * k], 4.0) for k, x in sides.items()]
    names = pydicom.Dataset()
    names.StructureSetROISequence = [dicom._item(ROINumber=7, ROIName="Node")]
    made = dicom.structures_dataset(
        [contours.Structure("Node", (1, 2, 3), outlines, number=7)], names, ct
    )
    made.save_as(tmp_path / "rs.dcm", enforce_file_format=True)
    for by, told in ((SHIFT, False), (SHIFT + [0, 0, 1.5], True)):
        write_transform(shift(by=by), transform)
        given = [transform, tmp_path / "rs.dcm", "-o", tmp_path / "m.dcm", "--reference", ct]
        assert main(["apply", *map(str, given)]) == 0
        said = "Node has no contour on 1 of the slices" in capsys.readouterr().err
        assert said is told
