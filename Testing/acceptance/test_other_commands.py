"""`evaluate`, `demo` and the listings end to end: what a user types and what they get."""

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
from command_line import landmarks, points_of, refused, run, started
from L2ORegistrationLib.core.files import read_volume, write_volume
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.core.measures import jacobian_summary
from scipy.spatial.transform import Rotation


def test_evaluate_agrees_with_simpleitk(data, registered):
    folder, document = registered
    transform = sitk.ReadTransform(str(folder / "t.h5"))
    fixed, moving = points_of(data / "fixed.csv"), points_of(data / "moving.csv")
    errors = np.linalg.norm([transform.TransformPoint(p) for p in fixed] - np.array(moving), axis=1)
    given = (*landmarks(data), "--fixed-mask", data / "fixed_mask.nii.gz", "--json")
    code, out, err = run("evaluate", folder / "t.h5", *given)
    assert code == 0, err
    found = json.loads(out)
    assert found["landmarks"] == len(fixed)
    assert found["measures"]["tre"]["mean"] == pytest.approx(errors.mean(), abs=1e-3)
    assert found["measures"]["tre"]["max"] == pytest.approx(errors.max(), abs=1e-3)
    assert found["initial"]["tre"] == pytest.approx(document["measures"]["Initial"]["tre"])
    assert document["measures"]["L2O"]["tre"]["mean"] == pytest.approx(errors.mean(), abs=1e-3)


def test_evaluate_prints_a_table(data, registered):
    code, out, _ = run("evaluate", registered[0] / "t.h5", *landmarks(data))
    assert code == 0
    assert re.search(r"Initial +[\d.]+", out) and re.search(r"Transform +[\d.]+", out)


def test_no_column_is_cut_where_80_characters_fit(data, registered):
    given = (*landmarks(data), "--fixed-mask", data / "fixed_mask.nii.gz")
    _, out, _ = run("evaluate", registered[0] / "t.h5", *given)
    heads = ("TRE mean", "median", "p95", "folding %", "SDlogJ", "Learn2Reg")
    assert all(head in out for head in heads) and "\N{HORIZONTAL ELLIPSIS}" not in out


def test_evaluate_tells_of_points_that_the_transform_does_not_reach(tmp_path):
    grid = Grid((9, 9, 9), (5.0, 5.0, 5.0))
    field = DisplacementField(np.full((*grid.shape, 3), (1, 2, 3), np.float32), grid)
    sitk.WriteTransform(field.to_transform(), str(tmp_path / "t.h5"))
    for name, at in (("f", "10,10,10\n20,20,20\n90,0,0\n"), ("m", "11,12,13\n21,22,23\n91,2,3\n")):
        (tmp_path / f"{name}.csv").write_text("x,y,z\n" + at)
    points = ("--fixed-landmarks", tmp_path / "f.csv", "--moving-landmarks", tmp_path / "m.csv")
    code, out, err = run("evaluate", tmp_path / "t.h5", *points, "--json")
    assert code == 0 and "1 of 3 fixed landmarks lie beside the transform's grid" in err
    assert json.loads(out)["notes"]


def test_evaluate_measures_an_affine_in_the_mask(data, tmp_path):
    affine = sitk.AffineTransform(3)
    affine.Scale((1.1, 1.0, 0.5))
    sitk.WriteTransform(affine, str(tmp_path / "affine.tfm"))
    mask = ("--fixed-mask", data / "fixed_mask.nii.gz")
    code, out, _ = run("evaluate", tmp_path / "affine.tfm", *mask, "--json")
    assert code == 0
    jacobian = json.loads(out)["measures"]["jacobian"]
    assert jacobian["min"] == pytest.approx(0.55, abs=1e-4)
    assert jacobian["sdlogj"] == pytest.approx(0, abs=1e-4)


def test_evaluate_looks_at_the_whole_of_a_turned_mask(tmp_path):
    turn = Rotation.from_euler("z", 45, degrees=True).as_matrix()
    grid = Grid((20, 20, 8), (3.0, 3.0, 3.0), (-10, 20, 30), turn)
    mask = Volume(np.ones(grid.shape, bool), grid)
    write_volume(mask, tmp_path / "mask.nrrd")
    bump = sitk.BSplineTransformInitializer(mask.to_image(), [5, 5, 2])
    bump.SetParameters(np.random.default_rng(0).normal(0, 3, len(bump.GetParameters())))
    sitk.WriteTransform(bump, str(tmp_path / "bump.tfm"))
    everywhere = Grid.covering(grid.corners(), 2.0, margin=4.0)
    field = DisplacementField.of_transform(bump, everywhere)
    code, out, err = run(
        "evaluate", tmp_path / "bump.tfm", "--fixed-mask", tmp_path / "mask.nrrd", "--json"
    )
    assert code == 0, err
    found = json.loads(out)["measures"]["jacobian"]
    assert found == pytest.approx(jacobian_summary(field, mask), abs=1e-6)


def test_without_a_grid_things_come_to_moving_by_the_inverse_as_the_sentence_says(tmp_path):
    grid = Grid((30, 28, 26), (2.0, 2.0, 2.0), (-10, 20, 30))
    image, path = tmp_path / "image.nrrd", tmp_path / "shift.tfm"
    values = np.random.default_rng(0).normal(0, 100, grid.shape).astype(np.float32)
    write_volume(Volume(values, grid), image)
    sitk.WriteTransform(sitk.TranslationTransform(3, (4.0, -2.0, 6.0)), str(path))
    to_moving = ("apply", path, image, "-o", tmp_path / "out.nrrd", "--reference", image)
    told = refused(*to_moving, "--to", "moving", within=tmp_path)
    assert "Write its inverse" in told and "invert" in told
    inverse = tmp_path / "inverse.h5"
    assert run("invert", path, "--reference", image, "-o", inverse)[0] == 0
    assert run("apply", inverse, *to_moving[2:])[0] == 0
    moved = read_volume(tmp_path / "out.nrrd").array  # what was at p is at p + (4, -2, 6) mm
    np.testing.assert_allclose(moved[4:-2, 2:-4, 4:-2], values[1:-5, 3:-3, 2:-4], atol=0.1)


def test_a_way_back_without_a_grid_needs_the_moving_image(data, registered, tmp_path):
    sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "back.tfm"))
    back = ("evaluate", registered[0] / "t.h5", "--backward", tmp_path / "back.tfm")
    assert "name the moving image with --moving" in refused(*back, within=tmp_path)
    code, out, err = run(*back, "--moving", data / "moving.nii.gz")
    assert code == 0 and "consist" in out.lower(), err


def test_structures_that_one_scan_lacks_are_named(data, registered, tmp_path):
    lungs = sitk.Cast(sitk.ReadImage(str(data / "fixed_mask.nii.gz")), sitk.sitkUInt8)
    sitk.WriteImage(lungs, str(tmp_path / "m.nrrd"))
    lungs[:, :, 40:] = 3 * lungs[:, :, 40:]
    sitk.WriteImage(lungs, str(tmp_path / "f.nrrd"))
    given = ("--fixed-structures", tmp_path / "f.nrrd", "--moving-structures", tmp_path / "m.nrrd")
    code, out, err = run("evaluate", registered[0] / "t.h5", *given, "--json")
    assert code == 0 and "in one scan only are left out: label 3" in err
    assert "label 3" in " ".join(json.loads(out)["notes"])


def test_evaluate_needs_something_to_measure(tmp_path):
    sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "affine.tfm"))
    assert "give landmarks" in refused("evaluate", tmp_path / "affine.tfm", within=tmp_path)


def test_json_tells_errors_too(tmp_path):
    code, out, err = run("evaluate", tmp_path / "missing.h5", "--json")
    assert code == 2 and not err
    assert "does not exist" in json.loads(out)["error"]


def test_version_and_help():
    from L2ORegistrationLib import __version__

    assert run("--version") == (0, f"{__version__}\n", "")
    code, out, _ = run("--help")
    assert code == 0
    for command in ("demo", "register", "evaluate", "train", "models", "devices"):
        assert command in out
    assert run("register")[0] == 2


def test_models_lists_the_packaged_weights():
    code, out, _ = run("models", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["default"] in [card["name"] for card in document["models"]]
    assert document["default"] in run("models")[1]


def test_devices_lists_the_cpu():
    code, out, _ = run("devices", "--json")
    assert code == 0
    assert "cpu" in [device["name"] for device in json.loads(out)["devices"]]
    assert "cpu" in run("devices")[1]


@pytest.mark.slow
def test_demo_shows_that_l2o_beats_adam(tmp_path):
    process = started("demo", "--out", tmp_path / "demo", "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    measures = json.loads(out)["measures"]
    assert list(measures) == ["Initial", "Start", "Adam", "L2O"]
    assert measures["L2O"]["tre"]["mean"] < measures["Adam"]["tre"]["mean"]
    assert measures["L2O"]["jacobian"]["folding"] == 0
    written = {path.name for path in (tmp_path / "demo").iterdir()}
    assert {"transform.h5", "warped.nii.gz", "report.html", "overview.png"} <= written
