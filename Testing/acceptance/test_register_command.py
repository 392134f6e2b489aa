"""`register` end to end: what it writes and what it tells, as a user gets them."""

import csv
import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
from command_line import FAST, landmarks, register, run


def test_register_brings_the_lungs_together(registered):
    _, document = registered
    measures = document["measures"]
    assert measures["L2O"]["tre"]["mean"] < 0.4 * measures["Initial"]["tre"]["mean"]
    assert measures["L2O"]["jacobian"]["folding"] == 0
    assert document["cancelled"] is False
    assert document["provenance"]["method"] == "l2o"


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


def test_how_sure_it_is_is_told_and_written(data, registered):
    folder, document = registered
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "sure.nrrd")))
    inside = sitk.GetArrayFromImage(sitk.ReadImage(str(data / "fixed_mask.nii.gz"))) > 0
    assert (image > 0)[inside].all() and not image[~inside].any()
    told = document["confidence"]
    assert told["median"] == pytest.approx(np.median(image[inside]), rel=0.1)
    assert told["p95"] >= told["median"] and 0 <= told["unsure"] <= 1
    at = document["landmarks"]
    assert len(at["error_mm"]) == len(at["confidence_mm"]) > 20
    mean = document["measures"]["L2O"]["tre"]["mean"]
    assert np.mean(at["error_mm"]) == pytest.approx(mean, abs=1e-4)
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert "9 of 10 places" in page and "landmarks" in page


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
    lines = re.findall(r"^ +(\d*) +(initial|start|adam) ", err, re.MULTILINE)
    numbers = [number for number, _ in lines]
    assert numbers == ["", "0", "1", "2", "3", "4"]  # before, the start and twice two iterations
    assert "TRE mm" in err


def test_what_fails_has_a_transform_and_an_exit_code_of_its_own(data, tmp_path):
    """Upside down: no motion brings it to the fixed scan."""
    for name in ("moving", "moving_mask"):
        image = sitk.ReadImage(str(data / f"{name}.nii.gz"))
        turned = sitk.GetImageFromArray(np.ascontiguousarray(sitk.GetArrayFromImage(image)[::-1]))
        turned.CopyInformation(image)
        sitk.WriteImage(turned, str(tmp_path / f"{name}.nii.gz"))
    given = ("--fixed-mask", data / "fixed_mask.nii.gz")
    given += ("--moving-mask", tmp_path / "moving_mask.nii.gz", *FAST, "--json")
    images = data / "fixed.nii.gz", tmp_path / "moving.nii.gz"
    code, out, err = run("register", *images, "-o", tmp_path / "t.h5", *given)
    assert code == 3, err
    document = json.loads(out)
    assert document["verdict"] == "failed" and document["reasons"]
    assert document["confidence"] == {"median": 16.0, "p95": 16.0, "unsure": 1.0}  # none at all
    assert sitk.ReadTransform(str(tmp_path / "t.h5")).GetDimension() == 3
