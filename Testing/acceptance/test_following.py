"""What `register` writes beside the transform, and a correction by hand that goes on from it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.outputs import ventilation

sys.path.insert(0, str(Path(__file__).parent))

from command_line import landmarks, points_of, register, run  # noqa: E402


@pytest.mark.slow
def test_inverse_and_ventilation_are_written(data, tmp_path):
    regions = sitk.ReadImage(str(data / "fixed_mask.nii.gz")) > 0
    height = regions.GetSize()[2] // 2
    regions[:, :, height:] = 2 * regions[:, :, height:]  # as two lobes
    sitk.WriteImage(sitk.Cast(regions, sitk.sitkUInt8), str(tmp_path / "lobes.nii.gz"))
    code, out, err = run(
        *register(data, tmp_path / "t.h5", "--method", "adam"),
        "--inverse", tmp_path / "i.h5", "--ventilation", tmp_path / "v",
        "--regions", tmp_path / "lobes.nii.gz", "--report", tmp_path / "r", "--json",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert {Path(p).name for p in told["written"]} >= {"i.h5", "ventilation-hu.nii.gz"}
    assert all(Path(path).is_file() for path in told["written"])
    assert told["inverse_round_trip_mm"]["max"] < 0.3
    there, back = (sitk.ReadTransform(str(tmp_path / f"{name}.h5")) for name in "ti")
    for point in points_of(data / "fixed.csv"):
        again = back.TransformPoint(there.TransformPoint(point))
        assert np.linalg.norm(np.subtract(again, point)) < 0.3
    both = told["ventilation"]["both lungs"]
    assert both["volume_ml"] > 500 and both["change_ml"] == pytest.approx(
        both["volume_ml"] * both["jacobian"]
    )
    parts = [told["ventilation"][f"label {k}"] for k in (1, 2)]
    for sum_of in ("volume_ml", "change_ml"):
        assert sum(part[sum_of] for part in parts) == pytest.approx(both[sum_of], rel=0.01)
    page = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert "Quality after AAPM TG-132" in page and "Jacobian determinant</td><td>lungs" in page
    assert "How the lungs change their volume" in page and "<td>label 2</td>" in page
    assert page.count("data:image/png;base64") == 5


def test_regions_need_something_to_appear_in(data, tmp_path):
    code, _, err = run(*register(data, tmp_path / "t.h5"), "--regions", data / "fixed_mask.nii.gz")
    assert code == 2 and "--ventilation or --report" in err
    code, _, err = run(
        *register(data, tmp_path / "t.h5"), "--regions", data / "fixed.nii.gz",
        "--ventilation", tmp_path / "v",
    )  # fmt: skip
    assert code == 2 and "label" in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [True, False])
def test_regions_of_another_frame_are_refused_before_anything_is_written(data, tmp_path, given):
    lungs = sitk.ReadImage(str(data / "fixed_mask.nii.gz")) > 0
    lungs.SetOrigin(np.add(lungs.GetOrigin(), (0, 0, 900)).tolist())
    elsewhere = tmp_path / "elsewhere.nii.gz"
    sitk.WriteImage(lungs, str(elsewhere))
    command = register(data, tmp_path / "t.h5", masks=given)
    code, _, err = run(*command, "--regions", elsewhere, "--ventilation", tmp_path / "v")
    assert code == 2 and "'label 1' lies outside the lungs" in " ".join(err.split())
    assert list(tmp_path.iterdir()) == [elsewhere]


@pytest.mark.slow
def test_landmarks_pull_a_result(data, tmp_path):
    """From no motion at all: what stands at the landmarks afterwards is what they say."""
    nothing = tmp_path / "nothing.nrrd"
    image = sitk.ReadImage(str(data / "fixed.nii.gz"))
    still = sitk.TransformToDisplacementField(
        sitk.Transform(), sitk.sitkVectorFloat64, image.GetSize(), image.GetOrigin(),
        image.GetSpacing(), image.GetDirection(),
    )  # fmt: skip
    sitk.WriteImage(still, str(nothing))
    code, out, err = run(
        *register(data, tmp_path / "t.h5"), *landmarks(data),
        "--initial-transform", nothing, "--pull", "--json",
    )  # fmt: skip
    assert code == 0, err
    measures = json.loads(out)["measures"]
    assert measures["Gauss-Newton"]["tre"]["mean"] < 1.5 < measures["Initial"]["tre"]["mean"]
    assert "steered" in err


def test_pull_without_an_earlier_result_is_refused(data, tmp_path):
    code, _, err = run(*register(data, tmp_path / "t.h5"), *landmarks(data), "--pull")
    assert code == 2 and "--initial-transform" in err
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_made_of_a_failed_result_hides_neither_it_nor_its_verdict(data, tmp_path):
    mirror = sitk.AffineTransform(3)
    mirror.Scale((-1.0, 1.0, 1.0))  # it folds everywhere
    sitk.WriteTransform(mirror, str(tmp_path / "mirror.tfm"))
    command = register(data, tmp_path / "t.h5", "--initial-transform", tmp_path / "mirror.tfm")
    asked = ("--ventilation", tmp_path / "v", "--inverse", tmp_path / "i.h5")
    code, out, err = run(*command, *asked, "--json")
    told = json.loads(out)
    assert code == 3 and told["verdict"] == "failed" and told["measures"]
    assert told["written"] == [str(tmp_path / "t.h5")]
    missing = [one for one in told["warnings"] if "was not written" in one]
    assert [one.split()[0] for one in missing] == ["--ventilation", "--inverse"]
    assert all(one in err for one in missing) and "folds" in missing[0]
    assert not (tmp_path / "i.h5").exists() and not (tmp_path / "v").exists()


def test_the_exit_code_tells_that_something_is_missing(data, tmp_path, monkeypatch):
    def refuse(*_):
        raise InputError("No voxel of the lungs holds air.")

    monkeypatch.setattr(ventilation, "ventilation", refuse)
    command = register(data, tmp_path / "t.h5", "--ventilation", tmp_path / "v", "-q")
    code, out, err = run(*command)
    assert code == 2 and "--ventilation was not written: No voxel" in err and "Verdict: " in out
    assert (tmp_path / "t.h5").exists()
