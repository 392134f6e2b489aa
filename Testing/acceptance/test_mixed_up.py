"""Scans, masks, regions and transforms in each other's place are told of: it may be on purpose."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from command_line import FAST, landmarks, refused, register, run
from L2ORegistrationLib.core.geometry import Grid
from L2ORegistrationLib.outputs.record import Record, Scan

GRID = Grid((6, 7, 8))  # of both: only the paths tell them apart
SCAN, TWIN = Scan(GRID, "/scans/fixed.nrrd"), Scan(GRID, "/scans/moving.nrrd")


def told(*arguments):
    """The notes of a command that ends well."""
    code, out, err = run(*arguments)
    assert code == 0, out + err
    return " ".join(err.split())


def recorded(transform, fixed, moving, **more):
    """The transform, with a record of where it leads."""
    Record("good", (), fixed, moving, **more).write(transform)
    return transform


@pytest.fixture
def another(registered, tmp_path):
    """Another transform than the registered one, without a record."""
    field = sitk.ReadImage(str(registered[0] / "sure.nrrd"))
    motion = sitk.Compose(*[sitk.Cast(field, sitk.sitkFloat64)] * 3)
    sitk.WriteTransform(sitk.DisplacementFieldTransform(motion), str(tmp_path / "another.h5"))
    return tmp_path / "another.h5"


def test_a_scan_with_itself_is_told_of(data, tmp_path):
    copy = tmp_path / "copy.nii.gz"
    shutil.copy(data / "fixed.nii.gz", copy)
    command = ("register", data / "fixed.nii.gz", copy, "-o", tmp_path / "t.h5", *FAST, "--json")
    code, out, err = run(*command)
    assert code == 0 and "are the same image" in err
    assert "are the same image" in " ".join(json.loads(out)["warnings"])


def test_masks_that_were_exchanged_are_told_of(data, tmp_path):
    masks = [data / f"{role}_mask.nii.gz" for role in ("fixed", "moving")]
    command = register(data, tmp_path / "t.h5", "-q", masks=False)
    said = told(*command, "--fixed-mask", masks[1], "--moving-mask", masks[0])
    assert "The fixed mask fits the lungs of the other scan" in said
    assert "The moving mask fits the lungs of the other scan" in said
    assert "other scan" not in told(*command, "--fixed-mask", masks[0], "--moving-mask", masks[1])


def test_regions_of_the_moving_scan_are_told_of(data, tmp_path):
    command = register(data, tmp_path / "t.h5", "--ventilation", tmp_path / "v", "-q")
    for role, doubtful in (("moving", True), ("fixed", False)):
        said = told(*command, "--regions", data / f"{role}_mask.nii.gz")
        assert ("What --regions marks fits the lungs of the other scan" in said) == doubtful


def test_that_masks_were_exchanged_is_told_before_they_are_refused(data, tmp_path):
    for name in ("moving", "moving_mask"):
        image = sitk.ReadImage(str(data / f"{name}.nii.gz"))
        image.SetOrigin(np.add(image.GetOrigin(), (0, 0, 60)))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    command = ("register", data / "fixed.nii.gz", tmp_path / "moving.nrrd", "-o", tmp_path / "t.h5")
    code, _, err = run(*command, "--fixed-mask", tmp_path / "moving_mask.nrrd", *FAST, "-q")
    assert code == 2 and "fits no lungs there" in err  # it is resampled, and lies beside them
    assert "The fixed mask fits the lungs of the other scan" in err


def test_regions_on_the_voxels_of_the_moving_scan_are_told_of(data, tmp_path):
    """Too small to tell by what they mark."""
    moving = sitk.ReadImage(str(data / "moving.nii.gz"))[2:, :, :]
    sitk.WriteImage(moving, str(tmp_path / "moving.nrrd"))
    lungs = sitk.ReadImage(str(data / "moving_mask.nii.gz"))[2:, :, :]
    lungs = sitk.BinaryErode(lungs > 0, [8] * 3)
    sitk.WriteImage(lungs, str(tmp_path / "regions.nrrd"))
    said = told(
        "register", data / "fixed.nii.gz", tmp_path / "moving.nrrd", "-o", tmp_path / "t.h5",
        "--regions", tmp_path / "regions.nrrd", "--ventilation", tmp_path / "v", *FAST, "-q",
    )  # fmt: skip
    assert "--regions lies on the voxels of the moving scan" in said


def test_a_start_that_leads_the_other_way_is_told_of(data, registered, tmp_path):
    inverse = tmp_path / "inverse.h5"
    assert run("invert", registered[0] / "t.h5", "-o", inverse)[0] == 0
    command = register(data, tmp_path / "t.h5", "-q")
    said = told(*command, "--initial-transform", inverse)
    assert "inverse.h5 leads from the moving to the fixed scan" in said and "invert it" in said
    assert "leads" not in told(*command, "--initial-transform", registered[0] / "t.h5")


def test_an_inverse_made_with_exchanged_scans_is_told_of(data, registered, tmp_path):
    command = ("invert", registered[0] / "t.h5", "-o", tmp_path / "i.h5", "--json")
    scans = [data / f"{role}.nii.gz" for role in ("fixed", "moving")]
    assert "belongs to" not in told(*command, "--reference", scans[0], "--moving", scans[1])
    said = told(*command, "--reference", scans[1], "--moving", scans[0])
    assert "--reference moving.nii.gz belongs to the moving scan" in said
    assert "--moving fixed.nii.gz belongs to the fixed scan" in said


def test_one_file_of_landmarks_for_both_scans_is_told_of(data, registered):
    given = ("--fixed-landmarks", data / "moving.csv", "--moving-landmarks", data / "moving.csv")
    assert "landmarks are the same points" in told("evaluate", registered[0] / "t.h5", *given)


def backward_commands(data, transform, backward, output):
    points = data / "moving.csv"
    yield "apply", transform, points, "-o", output, "--backward", backward, "--json"
    yield "evaluate", transform, *landmarks(data), "--backward", backward, "--json"


def test_a_transform_is_no_second_registration_of_its_own(data, registered, tmp_path):
    transform = registered[0] / "t.h5"
    copy = tmp_path / "copy.h5"
    shutil.copy(transform, copy)
    for command in backward_commands(data, transform, copy, tmp_path / "p.csv"):
        said = run(*command)
        assert said[0] == 2 and "is the same transform as" in json.loads(said[1])["error"]
        assert "of exchanged scans" in refused(*command[:-1], within=tmp_path)


@pytest.mark.parametrize(
    ("ways", "inverse", "doubt"),
    [
        ((SCAN, TWIN), False, "another.h5 leads from the fixed to the moving scan"),
        ((TWIN, SCAN), True, "another.h5 is the inverse of a registration"),
        ((TWIN, SCAN), False, None),
    ],
    ids=["the same way", "an inverse", "right"],
)
def test_a_second_registration_of_the_wrong_way_is_told_of(
    ways, inverse, doubt, data, registered, another, tmp_path
):
    transform = tmp_path / "t.h5"
    shutil.copy(registered[0] / "t.h5", transform)
    recorded(transform, SCAN, TWIN)
    recorded(another, *ways, inverse=inverse)
    for command in backward_commands(data, transform, another, tmp_path / "p.csv"):
        code, out, err = run(*command)
        assert code == 0, out + err
        document = json.loads(out)
        notes = " ".join(document.get("warnings", document.get("notes")))
        assert doubt is None or (doubt in notes and doubt in err)
        assert doubt is not None or "another.h5" not in notes
