"""`sequence` on a phantom 4DCT with known trajectories: what it writes, and how right it is."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from command_line import refused, run
from L2ORegistrationLib.core.files import (
    Landmarks,
    read_transform,
    read_volume,
    write_landmarks,
    write_volume,
)
from L2ORegistrationLib.core.geometry import Volume
from L2ORegistrationLib.phantom.breathing import make_breathing
from L2ORegistrationLib.sequence.registration import SequenceRegistration

FAST = ("--spacing", "4", "--device", "cpu", "--threads", "1")


@pytest.fixture(scope="module")
def breath(tmp_path_factory):
    """The phantom and a 4-D image of it."""
    made = make_breathing(7, spacing=4.0, amplitude_mm=15.0, noise_hu=10.0)
    path = tmp_path_factory.mktemp("breath") / "breath.nrrd"
    sitk.WriteImage(sitk.JoinSeries([phase.to_image() for phase in made.phases]), str(path))
    return made, path


@pytest.mark.slow
def test_ten_phases_are_followed_and_everything_is_written(breath, tmp_path):
    made, path = breath
    points = made.trajectories[0][::20]
    write_landmarks(Landmarks(points), tmp_path / "points.csv")
    write_volume(made.masks[0], tmp_path / "contour.nii.gz")
    out = tmp_path / "out"
    given = ("--landmarks", tmp_path / "points.csv", "--contour", tmp_path / "contour.nii.gz")
    code, told, err = run("sequence", path, "-o", out, *FAST, *given, "--json")
    assert code == 0, err
    document = json.loads(told)

    with open(out / "trajectories.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = np.array([[float(r[a]) for a in "xyz"] for r in rows if r["label"] != "contour centre"])
    found = found.reshape(len(points), 10, 3).swapaxes(0, 1)
    errors = np.linalg.norm(found - made.trajectories[:, ::20], axis=2)
    still = np.linalg.norm(made.trajectories[:1, ::20] - made.trajectories[:, ::20], axis=2)
    assert errors.mean() < 0.7 and errors.mean() < 0.2 * still.mean()  # mm, voxels of 4 mm
    assert sum(r["label"] == "contour centre" for r in rows) == 10

    transform = read_transform(out / "transform-05.h5")
    there = np.array([transform.TransformPoint(p) for p in points.tolist()])
    assert np.abs(there - found[5]).max() < 0.01
    fields = sitk.ReadImage(str(out / "fields.nrrd"))
    assert fields.GetSize()[3] == 10 and fields.GetNumberOfComponentsPerPixel() == 3

    loops = document["loops"]
    assert max(loop["mean"] for loop in loops.values()) < 1.5  # mm, on voxels of 4 mm
    verdicts = [phase.get("verdict") for phase in document["phases"]]
    assert verdicts == [None, *9 * ["good"]] and document["verdict"] == "good"
    assert len(document["phases"]) == 10
    ranks = [phase["rank_by_volume"] for phase in document["phases"]]
    assert ranks[0] <= 2 and ranks.index(10) in (4, 5, 6)  # full at 0, empty about half-way
    mean = read_volume(out / "mean.nii.gz")
    assert mean.grid.matches(made.phases[0].grid)
    assert read_volume(out / "amplitude.nii.gz").array.max() > 8  # mm
    assert (out / "warped-09.nii.gz").exists()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "data:image/gif" in page and "http:" not in page and "https:" not in page


@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_its_phases(breath):
    made, _ = breath
    options = {"spacing": 4.0, "threads": 1, "device": "cpu"}
    registration = SequenceRegistration(made.phases, reference=3, masks=made.masks, **options)
    steps = iter(registration)
    done = [next(steps), next(steps)]
    steps.close()
    result = registration.result()
    assert [step.phase for step in done] == [4, 5] and sorted(result.fields) == [3, 4, 5]
    assert result.cancelled and not result.loops
    errors = result.fields[5].transform_points(made.trajectories[3]) - made.trajectories[5]
    assert np.linalg.norm(errors, axis=1).mean() < 0.8


def test_a_phase_that_lies_elsewhere_fails_and_does_not_spoil_the_others(breath, tmp_path):
    made, _ = breath
    phases = [made.phases[k] for k in (0, 2, 4, 6, 8)]
    phases[2] = Volume(np.roll(phases[2].array, 15, axis=0), phases[2].grid)  # 60 mm higher
    path, out = tmp_path / "mixed.nrrd", tmp_path / "out"
    sitk.WriteImage(sitk.JoinSeries([phase.to_image() for phase in phases]), str(path))
    code, told, err = run("sequence", path, "-o", out, *FAST, "--no-images")
    assert code == 3, err
    assert "Verdict: failed" in told and told.count("Phase ") == 1 and "Phase 02: failed" in told
    with open(out / "phases.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["verdict"] for row in rows] == ["", "good", "failed", "good", "good"]
    assert rows[2]["reasons"] and not rows[1]["reasons"]
    assert "Phase 02: failed" in (out / "report.html").read_text(encoding="utf-8")
    # The one after it, which could have begun there, is right.
    transform = read_transform(out / "transform-03.h5")
    there = np.array([transform.TransformPoint(p) for p in made.trajectories[0].tolist()])
    assert np.linalg.norm(there - made.trajectories[6], axis=1).mean() < 0.8


def test_a_phase_that_cannot_be_registered_is_named_and_the_others_are_kept(
    breath, tmp_path, monkeypatch
):
    _, path = breath
    original = SequenceRegistration._registered

    def failing(self, fixed, moving, start):
        if moving == 2:
            far = replace(self._phases[moving].grid, origin=(0.0, 0.0, 9e3))
            self._phases[moving] = replace(self._phases[moving], grid=far)
            self._masks[moving] = replace(self._masks[moving], grid=far)
        return original(self, fixed, moving, start)

    monkeypatch.setattr(SequenceRegistration, "_registered", failing)
    code, _, err = run("sequence", path, "-o", tmp_path / "out", *FAST, "--no-images")
    assert code == 130 and "Phase 2: " in err and "Stopped: the phases" in err
    assert (tmp_path / "out" / "transform-01.h5").exists()
    assert not (tmp_path / "out" / "transform-03.h5").exists()


def test_results_are_not_written_among_the_phases(breath, tmp_path, monkeypatch):
    """Where the next run would read them as phases."""
    for number, phase in enumerate(breath[0].phases[:3]):
        write_volume(phase, tmp_path / f"{number}.nii.gz")
    monkeypatch.chdir(tmp_path)
    for out in (".", tmp_path):
        sentence = refused("sequence", tmp_path, "-o", out, *FAST, within=tmp_path)
        assert "would be read as phases" in sentence


def test_wrong_phases_and_references_are_sentences(breath, tmp_path):
    made, path = breath
    out = tmp_path / "out"
    sentence = refused("sequence", path, "-o", out, "--reference", "first", within=tmp_path)
    assert "give the number of a phase" in sentence
    sentence = refused("sequence", path, "-o", out, "--reference", "10", within=tmp_path)
    assert "There is no phase 10" in sentence
    (tmp_path / "ras.csv").write_text("x,y,z\n0,0,-900\n")
    far = ("--landmarks", tmp_path / "ras.csv")
    sentence = refused("sequence", path, "-o", out, *far, within=tmp_path)
    assert "outside" in sentence
    grid = made.masks[0].grid
    moved = Volume(made.masks[0].array, replace(grid, origin=(*grid.origin[:2], 500.0)))
    write_volume(moved, tmp_path / "other.nii.gz")
    sentence = refused(
        "sequence", path, "-o", out, "--contour", tmp_path / "other.nii.gz", within=tmp_path
    )
    assert "lies outside the reference" in sentence
    sentence = refused("sequence", path.with_name("x"), "-o", out, within=tmp_path)
    assert "does not exist" in sentence
