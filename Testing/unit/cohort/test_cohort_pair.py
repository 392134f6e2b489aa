"""A pair of a cohort: what counts as done, and what an attempt leaves behind."""

import json
from pathlib import Path

import pytest
import SimpleITK as sitk
from L2ORegistrationLib.cohort.inputs import checksum, inputs_state
from L2ORegistrationLib.cohort.pair import failed, finished, register_pair, starts
from L2ORegistrationLib.cohort.table import Row


def record(folder, row, settings, **more):
    """What a finished pair leaves; without more as versions left it that knew no weights."""
    home = folder / row.name
    home.mkdir()
    line = failed(row, "")
    line |= {"verdict": "done", "transform": f"{row.name}/t.h5", "report": f"{row.name}/r.html"}
    line |= {f"{role}_sha256": checksum(path) for role, path in row.inputs.items()}
    for key in ("transform", "report"):
        (folder / line[key]).touch()
    content = {"line": line, "settings": settings, "inputs": inputs_state(row)}
    content |= {"version": line["software"].split()[1], **more}
    (home / "pair.json").write_text(json.dumps(content))
    return line


def test_a_pair_is_done_until_its_inputs_settings_or_outputs_change(tmp_path):
    images = tmp_path / "a.nii", tmp_path / "b.nii"
    for image in images:
        image.write_text(image.name)
    row, settings = Row("x", *map(str, images)), {"spacing": 3.0}
    line = record(tmp_path, row, settings)
    home = tmp_path / "x"
    assert finished(row, home, settings) == line
    assert finished(row, home, {"spacing": 2.0}) is None
    with_mask = Row("x", *map(str, images), fixed_mask=str(images[0]))
    assert finished(with_mask, home, settings) is None
    images[0].write_text("a.nii")  # touched, with the same content
    assert finished(row, home, settings) == line
    images[0].write_text("other")
    assert finished(row, home, settings) is None
    images[0].write_text("a.nii")
    (home / "t.h5").unlink()
    assert finished(row, home, settings) is None


def test_a_pair_is_done_again_after_its_voxels_were_replaced(tmp_path):
    for role in ("fixed", "moving"):
        sitk.WriteImage(sitk.Image(4, 3, 2, sitk.sitkInt16), str(tmp_path / f"{role}.mhd"))
    row = Row("x", str(tmp_path / "fixed.mhd"), str(tmp_path / "moving.mhd"))
    line = record(tmp_path, row, {})
    assert finished(row, tmp_path / "x", {}) == line
    (tmp_path / "moving.raw").write_bytes(bytes(range(48)))
    assert finished(row, tmp_path / "x", {}) is None


def recorded_weights(folder, settings):
    """The weights that a pair's record says it was made with; here of one that is refused."""
    (folder / "no.nii").write_text("no image")
    row = Row("w", str(folder / "no.nii"), str(folder / "no.nii"))
    register_pair(row, str(folder / "w"), settings, "run")
    return json.loads((folder / "w" / "pair.json").read_text())["weights"]


@pytest.mark.parametrize("role", ["model", "start_model"])
def test_a_pair_is_done_again_with_weights_that_were_trained_anew(tmp_path, role):
    image, weights = tmp_path / "a.nii", tmp_path / "my.pt"
    image.write_text("image")
    weights.write_text("weights")
    row = Row("x", str(image), str(image))
    settings = {"method": "l2o", "start": "voxelmorph++", role: str(weights)}
    made_with = recorded_weights(tmp_path, settings)
    line = record(tmp_path, row, settings, weights=made_with)
    home = tmp_path / "x"
    assert finished(row, home, settings) == line
    weights.touch()
    assert finished(row, home, settings) == line
    weights.write_text("better weights")
    assert finished(row, home, settings) is None
    weights.write_text("weights")
    assert finished(row, home, settings) == line
    weights.unlink()
    assert finished(row, home, settings) is None


def test_packaged_weights_count_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr("L2ORegistrationLib.engine.packaged.FOLDER", tmp_path)
    (tmp_path / "l2o.pt").write_text("weights")
    (tmp_path / "voxelmorph++.pt").write_text("others")
    sums = {name: checksum(str(tmp_path / f"{name}.pt")) for name in ("l2o", "voxelmorph++")}
    l2o, voxelmorph = sums.values()
    assert recorded_weights(tmp_path, {}) == {"model": l2o}
    assert recorded_weights(tmp_path, {"method": "l2o", "model": "pyramid"}) == {"model": l2o}
    assert recorded_weights(tmp_path, {"method": "gauss-newton"}) == {}
    assert recorded_weights(tmp_path, {"method": "falta2022"}) == {"model": None}
    settings = {"method": "gauss-newton", "start": "voxelmorph++"}
    assert recorded_weights(tmp_path, settings) == {"start_model": voxelmorph}


def test_a_pair_of_the_version_before_is_done_unless_it_took_weights_of_a_file(tmp_path):
    image = tmp_path / "a.nii"
    image.write_text("image")
    for name, settings in {
        "none": {"method": "gauss-newton"},
        "packaged": {"method": "l2o", "model": "l2o"},
        "usual": {},
    }.items():
        row = Row(name, str(image), str(image))
        assert finished(row, tmp_path / name, settings) is None
        line = record(tmp_path, row, settings)
        assert finished(row, tmp_path / name, settings) == line
    row, settings = Row("own", str(image), str(image)), {"model": str(tmp_path / "my.pt")}
    record(tmp_path, row, settings)
    assert finished(row, tmp_path / "own", settings) is None


def test_settings_from_python_are_compared_as_they_are_recorded(tmp_path):
    (tmp_path / "no.nii").write_text("no image")
    row = Row("x", str(tmp_path / "no.nii"), str(tmp_path / "no.nii"))
    settings = {"model": tmp_path / "my.pt", "iterations": (1, 1, 2), "threads": 1}
    line = register_pair(row, str(tmp_path / "x"), settings, "run")
    assert "no.nii cannot be read" in line["reasons"]
    assert finished(row, tmp_path / "x", settings) == line
    assert finished(row, tmp_path / "x", {**settings, "iterations": (1, 1, 3)}) is None
    # What it is worked on with makes no other result.
    assert finished(row, tmp_path / "x", {**settings, "threads": 2, "device": "cpu"}) == line


def test_a_drive_that_was_away_is_no_reason_to_register_again(tmp_path):
    image = tmp_path / "a.nii"
    image.write_text("image")
    row = Row("x", str(image), str(image))
    line = record(tmp_path, row, {})
    image.rename(tmp_path / "away.nii")
    assert "does not exist" in register_pair(row, str(tmp_path / "x"), {}, "run")["reasons"]
    (tmp_path / "away.nii").rename(image)
    assert finished(row, tmp_path / "x", {}) == line


def test_a_device_that_is_not_there_takes_no_results_with_it(tmp_path):
    image = tmp_path / "a.nii"
    image.write_text("image")
    row = Row("x", str(image), str(image))
    line = record(tmp_path, row, {})
    (tmp_path / "x" / "warped.nii.gz").touch()
    failed_now = register_pair(row, str(tmp_path / "x"), {"device": "cuda:77"}, "run")
    assert failed_now["verdict"] == "failed" and "cuda:77" in failed_now["reasons"]
    assert (tmp_path / "x" / "warped.nii.gz").exists()
    assert finished(row, tmp_path / "x", {}) == line


def test_a_pair_that_fails_now_keeps_no_results_of_the_time_before(tmp_path):
    image = tmp_path / "a.nii"
    image.write_text("image")
    record(tmp_path, Row("x", str(image), str(image)), {})
    home = tmp_path / "x"
    left = ("transform.h5", "warped.nii.gz", "report.html", "overview.png", "before.png")
    for file in (*left, "after.png", "error.txt", "notes.txt", "report.docx"):
        (home / file).write_text("before")
    (home / "figures").mkdir()
    kept = {"notes.txt", "report.docx", "figures", "t.h5", "r.html"}
    broken = tmp_path / "no.nii"
    line = register_pair(Row("x", str(image), str(broken)), str(home), {}, "run")
    assert line["verdict"] == "failed" and (home / "transform.h5").exists()  # a drive is away
    broken.write_text("no image")
    line = register_pair(Row("x", str(image), str(broken)), str(home), {}, "run")
    assert line["verdict"] == "failed" and line["transform"] == ""
    assert {path.name for path in home.iterdir()} == {*kept, "pair.json"}
    assert json.loads((home / "pair.json").read_text())["line"] == line


def test_files_of_others_stay_in_a_folder_where_no_pair_was_registered(tmp_path):
    home = tmp_path / "x"
    home.mkdir()
    (home / "report.html").write_text("mine")
    for _ in range(2):
        register_pair(Row("x", "nowhere.nii", "nowhere.nii"), str(home), {}, "run")
        assert (home / "report.html").read_text() == "mine"
        assert not (home / "pair.json").exists()  # the images may come back


def test_an_earlier_transform_that_is_an_input_now_stays(tmp_path):
    image = tmp_path / "a.nii"
    image.write_text("image")
    record(tmp_path, Row("x", str(image), str(image)), {})
    home = tmp_path / "x"
    for file in ("transform.h5", "warped.nii.gz"):
        (home / file).write_text("before")
    start = str(home / ".." / "x" / "transform.h5")
    row = Row("x", str(image), str(image), initial_transform=start)
    register_pair(row, str(home), {}, "run")
    assert (home / "transform.h5").read_text() == "before"
    assert not (home / "warped.nii.gz").exists()


def test_results_that_cannot_be_deleted_fail_their_pair_with_a_sentence(tmp_path):
    image = tmp_path / "a.nii"
    image.write_text("image")
    record(tmp_path, Row("x", str(image), str(image)), {})
    (tmp_path / "x" / "transform.h5").mkdir()  # as little to be deleted as a file in use
    line = register_pair(Row("x", str(image), str(image)), str(tmp_path / "x"), {}, "run")
    assert line["verdict"] == "failed" and "transform.h5" in line["reasons"]
    assert "cannot be deleted" in line["reasons"] and "close programs" in line["reasons"]


def test_a_note_of_a_start_that_somebody_reads_costs_no_pair(tmp_path, monkeypatch):
    """As a scanner of viruses does on Windows, where it cannot be deleted then."""
    unlink = Path.unlink

    def blocked(path, *arguments, **options):
        if path.name == "starts.txt":
            raise PermissionError(13, "Permission denied")
        unlink(path, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", blocked)
    (tmp_path / "no.nii").write_text("no image")
    row = Row("x", str(tmp_path / "no.nii"), str(tmp_path / "no.nii"))
    line = register_pair(row, str(tmp_path / "x"), {}, "run")
    assert "no.nii cannot be read" in line["reasons"]
    assert finished(row, tmp_path / "x", {}) == line


def test_why_a_registration_failed_is_said_even_where_its_details_cannot_be_written(
    tmp_path, room_for
):
    image = sitk.Image(4, 3, 2, sitk.sitkInt16)
    image[1, 1, 1] = 5
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    row = Row("x", str(tmp_path / "a.nrrd"), str(tmp_path / "a.nrrd"))
    with room_for(100):
        line = register_pair(row, str(tmp_path / "x"), {"unheard": "of"}, "run")
    assert "The registration failed (TypeError:" in line["reasons"] and "unheard" in line["reasons"]


def test_starts_of_other_runs_do_not_count(tmp_path):
    assert starts(tmp_path, "a") == 0
    (tmp_path / "starts.txt").write_text("a 17\nb 18\na 19\n")
    assert starts(tmp_path, "a") == 2
