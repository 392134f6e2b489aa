"""What `register` refuses: one sentence says why, and nothing is written."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from command_line import FAST, points_of, refused, register, run
from L2ORegistrationLib.commands import register as register_command
from L2ORegistrationLib.core.files import Landmarks, read_volume, write_landmarks, write_volume
from L2ORegistrationLib.core.geometry import Grid, Volume


def image(path, array, **grid):
    picture = sitk.GetImageFromArray(array, isVector=grid.get("vector", False))
    sitk.WriteImage(picture, str(path))


def bad_images(folder):
    rng = np.random.default_rng(0)
    image(folder / "plane.nii.gz", rng.normal(size=(40, 40)).astype(np.float32))
    image(folder / "constant.nrrd", np.zeros((20, 20, 20), np.float32))
    image(folder / "nan.nrrd", np.full((20, 20, 20), np.nan, np.float32))
    image(folder / "colour.nrrd", rng.integers(0, 9, (9, 9, 9, 3)).astype(np.uint8), vector=True)
    image(folder / "noise.nrrd", rng.normal(0, 10, (40, 40, 40)).astype(np.float32))
    series = sitk.JoinSeries([sitk.Image(8, 8, 8, sitk.sitkFloat32)] * 3)
    sitk.WriteImage(series, str(folder / "series.nii.gz"))
    (folder / "empty.nii.gz").touch()
    (folder / "garbage.nrrd").write_text("no image")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing.nii.gz", "does not exist"),
        ("empty.nii.gz", "cannot be read"),
        ("garbage.nrrd", "cannot be read"),
        ("plane.nii.gz", "3-D"),
        ("series.nii.gz", "frames"),
        ("colour.nrrd", "values per voxel"),
        ("constant.nrrd", "same value everywhere"),
        ("nan.nrrd", "NaN"),
        ("noise.nrrd", "lung"),
    ],
)
def test_bad_images_are_refused(name, told, data, tmp_path):
    bad_images(tmp_path)
    (tmp_path / "out").mkdir()
    command = ("register", data / "fixed.nii.gz", tmp_path / name, "-o", tmp_path / "out" / "t.h5")
    assert told in refused(*command, *FAST, "--quiet", within=tmp_path)


def bad_masks(folder, data):
    mask = sitk.ReadImage(str(data / "fixed_mask.nii.gz"))
    sitk.WriteImage(mask * 0, str(folder / "blank.nrrd"))
    shifted = mask[5:, :, :]
    shifted.SetOrigin((np.array(shifted.GetOrigin()) + (60, 0, 60)).tolist())
    sitk.WriteImage(shifted, str(folder / "shifted.nrrd"))
    body = sitk.ReadImage(str(data / "fixed.nii.gz")) > -300
    sitk.WriteImage(body + 2 * mask + 4 * (mask == 0), str(folder / "organs.nrrd"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("blank.nrrd", "empty"),
        ("shifted.nrrd", "another grid"),
        ("organs.nrrd", "labels that together are no lungs"),
    ],
)
def test_bad_masks_are_refused(name, told, data, tmp_path):
    bad_masks(tmp_path, data)
    command = register(data, tmp_path / "t.h5", masks=False)
    assert told in refused(*command, "--fixed-mask", tmp_path / name, "-q", within=tmp_path)


def test_labels_choose_the_lungs_of_a_mask_that_holds_more(data, tmp_path):
    bad_masks(tmp_path, data)
    given = ("--fixed-mask", tmp_path / "organs.nrrd", "--moving-mask", data / "moving_mask.nii.gz")
    command = register(data, tmp_path / "t.h5", *given, "-q", masks=False)
    for labels, told in (("lungs", "whole numbers"), ("77", "none of the labels")):
        assert told in refused(*command, "--mask-labels", labels, within=tmp_path)
    bare = register(data, tmp_path / "t.h5", masks=False)
    assert "needs --fixed-mask" in refused(*bare, "--mask-labels", "1", within=tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [("0", "1 to 1000, got 0"), ("2000", "1 to 1000"), ("1,2", "L2O has 3 levels")],
)
def test_iterations_that_make_no_sense_are_refused(text, told, data, tmp_path):
    command = register(data, tmp_path / "t.h5", "-q")
    assert told in refused(*command, "--iterations", text, within=tmp_path)


@pytest.mark.parametrize("text", ["many", "1,,2", "1.5"])
def test_iterations_that_are_no_numbers_are_refused(text, data, tmp_path):
    code, _, err = run(*register(data, tmp_path / "t.h5", "-q"), "--iterations", text)
    assert code == 2 and f"'{text}' is no number" in err and not list(tmp_path.iterdir())


def test_images_that_do_not_overlap_are_refused(data, tmp_path):
    moving = read_volume(data / "moving.nii.gz")
    far = replace(moving.grid, origin=tuple(np.add(moving.grid.origin, 2000)))
    write_volume(Volume(moving.array, far), tmp_path / "far.nii.gz")
    command = ("register", data / "fixed.nii.gz", tmp_path / "far.nii.gz", "-o", tmp_path / "t.h5")
    mask = ("--fixed-mask", data / "fixed_mask.nii.gz")
    sentence = refused(*command, *mask, *FAST, "--start", "none", "-q", within=tmp_path)
    assert "overlap" in sentence


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x,y,z\n0,0,0\n", "landmarks"),
        ("x,y,z\n0,nan,0\n", "not a number"),
        ("x,y,z\n" + "9999,0,0\n" * 1000, "landmarks"),
        ("a,b\n1,2\n", "x, y and z"),
        ("", "no landmarks"),
    ],
)
def test_bad_landmarks_are_refused(text, told, data, tmp_path):
    (tmp_path / "bad.csv").write_text(text)
    given = ("--fixed-landmarks", tmp_path / "bad.csv", "--moving-landmarks", data / "moving.csv")
    assert told in refused(*register(data, tmp_path / "t.h5"), *given, within=tmp_path)


def test_landmarks_outside_the_image_are_refused(data, tmp_path):
    rows = points_of(data / "fixed.csv")
    outside = Landmarks(np.add(rows, (0, 0, 5000)))
    write_landmarks(outside, tmp_path / "far.csv")
    given = ("--fixed-landmarks", tmp_path / "far.csv", "--moving-landmarks", data / "moving.csv")
    assert "outside" in refused(*register(data, tmp_path / "t.h5"), *given, within=tmp_path)


def test_damaged_and_wrong_weights_are_refused(data, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    command = register(data, tmp_path / "t.h5", "--quiet")
    assert "model card" in refused(*command, "--model", tmp_path / "bad.pt", within=tmp_path)
    assert "no weights" in refused(*command, "--model", "unknown", within=tmp_path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--device", "tpu"), "not available"),
        (("--fixed-landmarks", "a.csv"), "pairs"),
        (("--start", "landmarks"), "--fixed-landmarks"),
        (("--start", "box", "--initial-transform", "t.h5"), "leave one out"),
        (("--quiet", "--verbose"), "leave one out"),
        (("--spacing", "40"), "spacing"),
        (("--warped", "warped.jpeg"), "suffix"),
        (("--warped", "nowhere/warped.nrrd"), "does not exist"),
        (("--report", "nowhere/else/report"), "does not exist"),
        (("--initial-transform", "missing.h5"), "does not exist"),
        (("--method", "lapirn", "--model", "l2o"), "belong to the method 'l2o', not to 'lapirn'"),
        (("--warped", "same.nrrd", "--image", "jacobian=./same.nrrd"), "also another result"),
        (("--warped", "same.nrrd", "--report", "./same.nrrd"), "also another result"),
        (("--inverse", "i.h5", "--ventilation", "i.h5"), "also another result"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, told, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told in refused(*register(data, "t.h5"), *options, within=tmp_path)


def test_scans_are_not_written_over(data, tmp_path):
    fixed, before = data / "fixed.nii.gz", (data / "fixed.nii.gz").read_bytes()
    command = register(data, tmp_path / "t.h5", "--warped", fixed)
    assert "would be overwritten, it is read" in refused(*command, within=tmp_path)
    linked = tmp_path / "linked.nii.gz"  # as one name in two cases, where file systems have none
    linked.hardlink_to(fixed)
    command = register(data, tmp_path / "t.h5", "--warped", linked)
    assert "would be overwritten, it is read" in refused(*command, within=tmp_path)
    shutil.copy(fixed, tmp_path / "moving.nii.gz")
    assert "is no phantom" in refused("demo", "--out", tmp_path, within=tmp_path)
    assert fixed.read_bytes() == before == (tmp_path / "moving.nii.gz").read_bytes()


def test_the_demo_knows_a_scan_with_its_own_spacing_from_a_phantom(tmp_path):
    noise = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    scan = Volume(noise, Grid((20,) * 3, (1.5,) * 3, (-180.0, 0, 40)))
    for role in ("fixed", "moving"):
        write_volume(scan, tmp_path / f"{role}.nii.gz")
    told = refused("demo", "--out", tmp_path, within=tmp_path)
    assert "fixed.nii.gz is no phantom" in told


def test_what_is_refused_before_the_command_begins_is_json_too(data, tmp_path):
    for arguments in (("a", "b"), ("a", "b", "-o", "t.h5", "--threads", "x"), ("--never",)):
        code, out, _ = run("register", *arguments, "--json")
        assert code == 2 and json.loads(out)["error"]
    code, out, err = run("register", "a", "b")
    assert code == 2 and not out and "Missing option" in err


def test_cuda_is_refused_where_there_is_none(data, tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    command = register(data, tmp_path / "t.h5", "--device", "cuda")
    assert "'cuda' is not available" in refused(*command, within=tmp_path)


@pytest.mark.parametrize(
    ("output", "told"),
    [("nowhere/t.h5", "does not exist"), ("t.jpeg", "suffix"), ("t", "suffix"), (".", "suffix")],
)
def test_outputs_that_cannot_be_written_are_refused_first(
    output, told, data, tmp_path, monkeypatch
):
    """Before anything is read, which takes long."""
    monkeypatch.setattr(register_command, "read_volume", lambda path: pytest.fail(f"read {path}"))
    assert told in refused(*register(data, tmp_path / output), within=tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_folders_that_cannot_be_written_to_are_refused(data, tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot be written" in refused(*register(data, tmp_path / "t.h5"), within=tmp_path)
