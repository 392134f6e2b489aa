"""The command line end to end: what a user types, what they get, and what they are told."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.cli import main
from L2ORegistrationLib.files import Landmarks, read_volume, write_landmarks, write_volume
from L2ORegistrationLib.geometry import Volume
from L2ORegistrationLib.phantom import make_pair

LIBRARY = Path(__file__).parents[2] / "L2ORegistration"
FAST = ("--spacing", "3", "--iterations", "2", "--device", "cpu", "--threads", "1")
TURN = np.linalg.qr(np.array([[1, 0.1, 0.05], [-0.12, 1, 0.08], [-0.05, -0.1, 1]]))[0]
TURN = TURN * np.sign(np.diag(TURN))  # a patient who lies a little askew


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with an oblique phantom pair, its masks and its landmarks."""
    folder = tmp_path_factory.mktemp("data")
    pair = make_pair(3, spacing=3.0, amplitude_mm=20.0, swap=False, noise_hu=10.0)
    for role in ("fixed", "moving"):
        write_volume(turned(getattr(pair, role)), folder / f"{role}.nii.gz")
        write_volume(turned(getattr(pair, f"{role}_mask")), folder / f"{role}_mask.nii.gz")
        points = getattr(pair, f"{role}_landmarks")[::20] @ TURN.T
        write_landmarks(Landmarks(points), folder / f"{role}.csv")
    return folder


@pytest.fixture(scope="module")
def registered(data, tmp_path_factory):
    """The folder of a registration that wrote everything it can, and its JSON."""
    folder = tmp_path_factory.mktemp("registered")
    options = ("--warped", folder / "warped.nii.gz", "--history", folder / "history")
    code, out, err = run(
        *register(data, folder / "t.h5"), *landmarks(data), *options,
        "--report", folder / "report", "--json",
    )  # fmt: skip
    assert code == 0, err
    return folder, json.loads(out)


def turned(volume):
    """The same voxels on a grid that is turned about the world's origin."""
    direction = TURN @ np.reshape(volume.grid.direction, (3, 3))
    grid = replace(volume.grid, direction=direction, origin=tuple(TURN @ volume.grid.origin))
    return Volume(volume.array, grid)


def register(data, output, *others, masks=True):
    """The arguments of a fast registration."""
    roles = ("fixed", "moving") if masks else ()
    given = [a for role in roles for a in (f"--{role}-mask", data / f"{role}_mask.nii.gz")]
    images = (data / "fixed.nii.gz", data / "moving.nii.gz")
    return ("register", *images, "-o", output, *given, *FAST, *others)


def landmarks(data):
    return ("--fixed-landmarks", data / "fixed.csv", "--moving-landmarks", data / "moving.csv")


def run(*arguments):
    """Exit code, stdout and stderr of a command line in this process."""
    from contextlib import redirect_stderr, redirect_stdout
    from io import StringIO

    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def refused(*arguments, within):
    """The sentence that refuses a command line, which must leave nothing in the folder `within`."""
    before = sorted(within.rglob("*"))
    code, out, err = run(*arguments)
    assert code == 2, out + err
    assert sorted(within.rglob("*")) == before
    assert not out and "Traceback" not in err
    (sentence,) = err.strip().splitlines()[-1:]
    return sentence


def points_of(path):
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    return [[float(row[axis]) for axis in "xyz"] for row in rows]


# What a registration writes


def test_register_brings_the_lungs_together(registered):
    _, document = registered
    measures = document["measures"]
    assert measures["L2O"]["tre"]["mean"] < 0.4 * measures["Initial"]["tre"]["mean"]
    assert measures["L2O"]["jacobian"]["folding"] == 0
    assert document["cancelled"] is False
    assert document["provenance"]["method"] == "l2o"


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


def test_warped_image_is_what_simpleitk_resamples(data, registered):
    folder, _ = registered
    fixed, moving = (sitk.ReadImage(str(data / f"{role}.nii.gz")) for role in ("fixed", "moving"))
    transform = sitk.ReadTransform(str(folder / "t.h5"))
    expected = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, -3000.0)
    warped = sitk.ReadImage(str(folder / "warped.nii.gz"))
    assert warped.GetSize() == fixed.GetSize()
    assert warped.GetDirection() == pytest.approx(fixed.GetDirection(), abs=1e-5)
    expected, warped = sitk.GetArrayFromImage(expected), sitk.GetArrayFromImage(warped)
    inside = sitk.GetArrayFromImage(sitk.ReadImage(str(data / "fixed_mask.nii.gz"))) > 0
    inside &= expected > -2000
    difference = np.abs(warped - expected)[inside]
    assert np.percentile(difference, 99) < 5 and inside.sum() > 10000  # HU


def test_history_has_every_step(registered):
    folder, document = registered
    rows = list(csv.DictReader((folder / "history" / "steps.csv").open(encoding="utf-8")))
    assert [int(row["index"]) for row in rows] == list(range(len(document["steps"])))
    assert [row["stage"] for row in rows][:3] == ["initial", "start", "l2o"]
    assert float(rows[document["best"]]["tre_mean"]) == pytest.approx(
        document["measures"]["L2O"]["tre"]["mean"]
    )
    assert all((folder / "history" / row["file"]).exists() for row in rows)


def test_report_and_its_picture_are_there(registered):
    report = registered[0] / "report"
    assert "TRE mean" in (report / "report.html").read_text(encoding="utf-8")
    assert (report / "overview.png").stat().st_size > 50_000


def test_register_continues_from_a_transform(data, registered, tmp_path):
    given = ("--initial-transform", registered[0] / "t.h5", *landmarks(data), "--json", "--quiet")
    code, out, err = run(*register(data, tmp_path / "again.tfm", *given))
    assert code == 0 and not err
    before, after = registered[1]["measures"]["L2O"], json.loads(out)["measures"]["Start"]
    assert after["tre"]["mean"] == pytest.approx(before["tre"]["mean"], abs=0.3)


def test_register_from_landmarks_without_masks(data, tmp_path):
    given = ("--start", "landmarks", *landmarks(data), "--method", "adam", "--verbose")
    report = ("--report", tmp_path / "report")
    code, out, err = run(*register(data, tmp_path / "t.nrrd", *given, *report, masks=False))
    assert code == 0, err
    assert "Adam" in out and "start: landmarks" in err
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "fitted to the same landmarks" in page


def test_progress_tells_each_step(data, tmp_path):
    code, _, err = run(*register(data, tmp_path / "t.h5"), *landmarks(data), "--method", "adam")
    assert code == 0
    lines = [line for line in err.splitlines() if re.match(r" +\d+ +(initial|start|adam)", line)]
    assert len(lines) == 6  # the initial state, the start and twice two iterations
    assert "TRE mm" in err


# What a user may do wrong


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
    sitk.WriteImage(mask[5:, :, :], str(folder / "cropped.nrrd"))


@pytest.mark.parametrize(
    ("name", "told"), [("blank.nrrd", "empty"), ("cropped.nrrd", "another grid")]
)
def test_bad_masks_are_refused(name, told, data, tmp_path):
    bad_masks(tmp_path, data)
    command = register(data, tmp_path / "t.h5", masks=False)
    assert told in refused(*command, "--fixed-mask", tmp_path / name, "-q", within=tmp_path)


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
    ],
)
def test_options_that_cannot_be_used_are_refused(options, told, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told in refused(*register(data, "t.h5"), *options, within=tmp_path)


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
def test_outputs_that_cannot_be_written_are_refused_first(output, told, data, tmp_path):
    began = time.monotonic()
    assert told in refused(*register(data, tmp_path / output), within=tmp_path)
    assert time.monotonic() - began < 1  # before anything is read


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_folders_that_cannot_be_written_to_are_refused(data, tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot be written" in refused(*register(data, tmp_path / "t.h5"), within=tmp_path)


def test_json_tells_errors_too(tmp_path):
    code, out, err = run("evaluate", tmp_path / "missing.h5", "--json")
    assert code == 2 and not err
    assert "does not exist" in json.loads(out)["error"]


def test_evaluate_needs_something_to_measure(tmp_path):
    sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "affine.tfm"))
    assert "give landmarks" in refused("evaluate", tmp_path / "affine.tfm", within=tmp_path)


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


# Ctrl-C


def started(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-u", "-m", "L2ORegistrationLib.cli", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A background job ignores Ctrl-C and its children inherit that; a user's terminal doesn't.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter on Windows")
def test_ctrl_c_keeps_the_best_field_so_far(data, tmp_path):
    output = tmp_path / "t.h5"
    endless = ("--method", "adam", "--iterations", "1000", "--json")
    process = started(*register(data, output), *landmarks(data), *endless)
    for line in process.stderr:
        if re.match(r" +[1-9]\d* +adam", line):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "best field so far" in err and "Traceback" not in err
    document = json.loads(out)
    assert document["cancelled"] and len(document["steps"]) < 1500
    assert sitk.ReadTransform(str(output)).GetDimension() == 3


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter on Windows")
def test_ctrl_c_before_the_first_step_leaves_nothing(data, tmp_path):
    process = started(*register(data, tmp_path / "t.h5", masks=False))
    for line in process.stderr:
        if "dissimilarity" in line:  # the head of the table, before the lungs are looked for
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err and not list(tmp_path.iterdir())


# The other commands


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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("colour = 3", "no training setting 'colour'"),
        ("steps = 'many'", "must be like"),
        ("iterations = 4", "2 numbers"),
        ("variant = 'other'", "no variant"),
        ("steps =", "TOML"),
    ],
)
def test_bad_training_settings_are_refused(text, told, tmp_path):
    (tmp_path / "bad.toml").write_text(text)
    command = ("train", "--out", tmp_path / "out", "--config", tmp_path / "bad.toml")
    assert told in refused(*command, within=tmp_path)


@pytest.mark.slow
def test_train_continues_and_its_weights_register(data, tmp_path):
    settings = "crop = 16\nkeypoints = 300\niterations = [1, 1]\nrates = [1.0, 0.0, 0.0]\n"
    (tmp_path / "tiny.toml").write_text(settings)
    command = ("train", "--out", tmp_path / "out", "--phantoms", 1, "--threads", 1, "--quiet")
    command += ("--config", tmp_path / "tiny.toml", "--json")
    weights = []
    for steps in (1, 2):
        code, out, err = run(*command, "--steps", steps)
        assert code == 0, err
        weights.append(json.loads(out)["sha256"])
    assert weights[0] != weights[1]
    other = run(*command, "--steps", 2, "--seed", 1)
    assert other[0] == 2 and "another seed" in json.loads(other[1])["error"]
    code, _, err = run(
        *register(data, tmp_path / "t.h5"), "--model", tmp_path / "out" / "trained.pt", "--quiet"
    )
    assert code == 0, err


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
