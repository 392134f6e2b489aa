"""The report holds what happened: right numbers, right way up, nothing from outside the file."""

import base64
import csv
import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import read_transform
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.engine.result import Result, Step
from L2ORegistrationLib.engine.verdict import Verdict  # noqa: E402
from L2ORegistrationLib.reporting import pictures, tables
from L2ORegistrationLib.reporting.html import write_report

AXES = np.linalg.qr(np.array([[1, 0.2, 0.1], [-0.25, 1, 0.15], [-0.1, -0.2, 1]]))[0]
OBLIQUE = Grid((32, 30, 28), (6.0, 6.5, 7.0), (-90, -95, -95), AXES * np.sign(np.diag(AXES)))
POINTS = np.random.default_rng(0).uniform(-40, 40, (50, 3))
SHIFT = np.array([4.0, -3.0, 8.0])


def made_result(strengths=(0, 0.5, 0.9, 1.0), best=3):
    """Two "lungs" and a motion that grows from nothing to a shift with the steps."""
    points = OBLIQUE.points()
    lungs = [np.linalg.norm((points - (x, 0, 0)) / (32, 45, 60), axis=-1) < 1 for x in (-45, 45)]
    mask = Volume(lungs[0] | lungs[1], OBLIQUE)
    image = Volume(np.where(mask.array, -850, 40).astype(np.float32), OBLIQUE)
    nodes = Grid.covering(OBLIQUE.corners(), 9.0)
    shift = DisplacementField(np.broadcast_to(SHIFT, (*nodes.shape, 3)).astype(np.float32), nodes)
    steps = [
        Step(i, len(strengths) - 1, stage, max(0, i - 2), shift.scaled(s), 0.1 - 0.05 * s, float(i))
        for i, (s, stage) in enumerate(
            zip(strengths, ("initial", "start", "l2o", "l2o"), strict=False)
        )
    ]
    return Result(
        field=steps[best].field,
        steps=steps,
        best=best,
        fixed=image,
        moving=image,
        fixed_mask=mask,
        moving_mask=mask,
        seconds=steps[-1].seconds,
        provenance={"model": "pyramid <1>", "device": "cpu"},
        cancelled=False,
        judgement=Verdict("good"),
        confidence=Volume(np.full(nodes.shape, 0.8, np.float32), nodes),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    html, png = write_report(
        {"L2O": made_result(), "Adam": made_result((0, 0.5, 0.6), 2)},
        folder,
        (POINTS, POINTS + SHIFT),
        title="A & B",
        details={"fixed image": "<a>.nii.gz"},
        warnings=("Look closely.",),
    )
    assert png.read_bytes()[:4] == b"\x89PNG"
    return html.read_text(encoding="utf-8")


def test_report_needs_nothing_but_itself(page):
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 3
    for source in sources:
        kind, _, content = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content)[:4] == b"\x89PNG"
    assert "http" not in re.sub(r'"data:[^"]*"', "", page)


def test_report_shows_the_numbers(page):
    rows = dict(re.findall(r"<tr><td>(Initial|Start|L2O|Adam)</td><td>([\d.]+)</td>", page))
    length = np.linalg.norm(SHIFT)
    assert {name: float(value) for name, value in rows.items()} == pytest.approx(
        {"Initial": length, "Start": length / 2, "L2O": 0, "Adam": 0.4 * length}, abs=0.006
    )
    assert "no folding" in page and "Look closely." in page


def test_report_shows_names_as_they_are(page):
    assert "A &amp; B" in page and "&lt;a&gt;.nii.gz" in page and "pyramid &lt;1&gt;" in page


def test_report_without_landmarks(tmp_path):
    html, _ = write_report({"L2O": made_result()}, tmp_path)
    assert "TRE" not in re.sub(r'"data:[^"]*"', "", html.read_text(encoding="utf-8"))


def test_report_of_a_run_that_was_stopped_at_once(tmp_path):
    write_report({"L2O": made_result((0,), 0)}, tmp_path, (POINTS, POINTS))


def test_report_needs_a_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        write_report({"L2O": made_result()}, tmp_path / "missing")


def test_planes_are_seen_as_radiologists_do():
    axial, coronal, sagittal = (p.points for p in pictures.lung_planes(made_result().fixed_mask))
    x, y, z = range(3)
    for across, down, plane in ((x, y, axial), (x, -z, coronal), (y, -z, sagittal)):
        sign = -1 if plane is not axial else 1
        assert (np.diff(plane[0, :, across]) > 0).all()
        assert (sign * np.diff(plane[:, 0, abs(down)]) > 0).all()
        assert np.ptp(plane, axis=(0, 1)).min() == 0  # one of the axes is normal to the plane
        steps = np.linalg.norm(plane[1, 0] - plane[0, 0]), np.linalg.norm(plane[0, 1] - plane[0, 0])
        assert steps[0] == pytest.approx(steps[1])
    assert abs(sagittal[0, 0, x]) == pytest.approx(45, abs=10)  # through a lung, not between them


def test_history_can_be_read_again(tmp_path):
    result = made_result()
    for name in ("steps.json", "step-077.nrrd", "step-notes.nrrd"):  # of a longer run before
        (tmp_path / name).touch()
    paths = tables.write_history(result, tmp_path, (POINTS, POINTS + SHIFT))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {path.name for path in paths} | {"step-notes.nrrd"}
    assert all(path.exists() for path in paths)
    rows = json.loads((tmp_path / "steps.json").read_text("utf-8"))
    table = list(csv.DictReader((tmp_path / "steps.csv").open(encoding="utf-8")))
    assert [row["best"] for row in rows] == [False, False, False, True]
    for row, line, step in zip(rows, table, result.steps, strict=True):
        transform = read_transform(tmp_path / row["file"])
        assert isinstance(transform, sitk.DisplacementFieldTransform)
        found = np.array([transform.TransformPoint(p) for p in POINTS.tolist()])
        assert found == pytest.approx(step.field.transform_points(POINTS), abs=1e-4)
        error = np.linalg.norm(found - POINTS - SHIFT, axis=1).mean()
        assert row["tre"]["mean"] == pytest.approx(error, abs=1e-4)
        assert float(line["tre_mean"]) == row["tre"]["mean"]
        assert float(line["dissimilarity"]) == row["dissimilarity"]
        assert row["jacobian"]["folding"] == 0
