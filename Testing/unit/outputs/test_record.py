"""What a registration found stays beside its transform, and is told to those who use it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from L2ORegistrationLib.cli import main
from L2ORegistrationLib.core.files import write_transform, write_volume
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.outputs.record import Record, Scan, beside, read_record

FIXED, MOVING = Grid((6, 7, 8)), Grid((6, 7, 9), origin=(0, 0, 1))
REASON = "The vessels do not meet."


@pytest.fixture
def transform(tmp_path):
    array = np.zeros((*FIXED.shape, 3), np.float32)
    write_transform(DisplacementField(array, FIXED), tmp_path / "t.h5")
    return tmp_path / "t.h5"


def record(verdict="failed", **changes):
    made = Record(verdict, (REASON,), Scan(FIXED, "/f.nrrd", "1.2"), Scan(MOVING, "/m.nrrd", "1.3"))
    return replace(made, **changes)


def test_it_is_read_back_as_it_was(transform):
    made = record(provenance={"method": "l2o", "spacing_mm": 1.5}, cancelled=True)
    assert made.write(transform) == beside(transform)
    assert read_record(transform) == made
    assert made.inverted().inverted() == made and made.inverted().fixed == made.moving


def test_that_of_another_transform_is_none(transform):
    record().write(transform)
    array = np.ones((*FIXED.shape, 3), np.float32)
    write_transform(DisplacementField(array, FIXED), transform)
    assert read_record(transform) is None


@pytest.mark.parametrize("content", [None, "", "[]", "{}", "null", '{"transform_sha256": 1}'])
def test_none_is_there_where_it_is_missing_or_damaged(transform, content):
    if content is not None:
        beside(transform).write_text(content, encoding="utf-8")
    assert read_record(transform) is None


def test_only_what_is_wrong_is_told():
    assert record("good").warnings("t.h5") == []
    (failed,) = record("failed").warnings("t.h5")
    assert "t.h5 has failed: do not use it" in failed and REASON in failed
    (check,) = record("check").warnings("t.h5")
    assert "checked" in check and REASON in check
    (early,) = record("good", cancelled=True).warnings("t.h5")
    assert "stopped early" in early


@pytest.mark.parametrize(
    ("thing", "role", "wrong"),
    [
        (Scan(FIXED), "fixed", ""),
        (Scan(FIXED), "moving", "belongs to the fixed scan"),
        (Scan(MOVING), "fixed", "belongs to the moving scan"),
        (Scan(Grid((5, 5, 5))), "fixed", ""),  # resampled: nothing is known
        (Scan(FIXED, "/m.nrrd"), "fixed", "belongs to the moving scan"),  # the path says more
        (Scan(None, "/elsewhere.dcm", "1.3"), "moving", ""),
        (Scan(None, "/elsewhere.dcm", "1.2"), "moving", "than the moving scan, that of the fixed"),
        (Scan(None, "/elsewhere.dcm", "1.9"), "moving", "another frame of reference"),
        (Scan(None, "/elsewhere.dcm"), "moving", ""),
    ],
)
def test_what_lies_in_the_other_scan_is_found(thing, role, wrong):
    said = " ".join(record().misplaced(thing, role, "it"))
    assert wrong in said and bool(wrong) == bool(said)


def test_scans_of_the_same_voxels_are_told_apart_by_their_paths():
    phases = record(moving=Scan(FIXED, "/m.nrrd"))
    assert phases.misplaced(Scan(FIXED), "moving", "it") == []
    assert phases.misplaced(Scan(FIXED, "/f.nrrd"), "moving", "it")
    assert phases.misplaced(Scan(FIXED, "/m.nrrd"), "moving", "it") == []


def test_commands_that_use_a_transform_tell_it(transform, tmp_path, capsys):
    def run(*arguments):
        assert main([str(argument) for argument in (*arguments, "--json")]) == 0
        return json.loads(capsys.readouterr().out)

    values = np.arange(np.prod(MOVING.shape), dtype=np.float32).reshape(MOVING.shape)
    write_volume(Volume(values, MOVING), tmp_path / "m.nrrd")
    write_volume(Volume(values[:8], FIXED), tmp_path / "f.nrrd")
    scans = {"fixed": tmp_path / "f.nrrd", "moving": tmp_path / "m.nrrd"}
    record(fixed=Scan.of(FIXED, scans["fixed"]), moving=Scan.of(MOVING, scans["moving"])).write(
        transform
    )
    out = tmp_path / "out.nrrd"

    told = run("apply", transform, scans["moving"], "-o", out, "--reference", scans["fixed"])
    assert REASON in told["warnings"][0] and len(told["warnings"]) == 1
    told = run("apply", transform, scans["fixed"], "-o", out, "--reference", scans["moving"])
    assert [w for w in told["warnings"] if "m.nrrd belongs to the moving scan" in w]
    assert [w for w in told["warnings"] if "f.nrrd belongs to the fixed scan" in w]
    backwards = "-o", out, "--to", "moving", "--reference", scans["moving"]
    assert not [
        w for w in run("apply", transform, scans["fixed"], *backwards)["warnings"] if "belongs" in w
    ]

    told = run("evaluate", transform, "--fixed", scans["fixed"], "--moving", scans["moving"])
    assert told["verdict"] == "failed" and len(told["notes"]) == 1
    told = run("evaluate", transform, "--fixed", scans["moving"], "--moving", scans["fixed"])
    assert len(told["notes"]) == 3

    told = run("invert", transform, "-o", tmp_path / "i.h5")
    assert REASON in told["warnings"][0]
    assert read_record(tmp_path / "i.h5") == read_record(transform).inverted()


def test_a_scan_is_the_same_however_its_path_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "other.nrrd").symlink_to(tmp_path / "data" / "scan.nrrd")
    spellings = "data/scan.nrrd", "data/../data/scan.nrrd", "~/data/scan.nrrd", "other.nrrd"
    assert len({Scan.of(None, path).path for path in spellings}) == 1


def test_a_record_is_found_in_the_home_folder(transform, monkeypatch):
    record().write(transform)
    monkeypatch.setenv("HOME", str(transform.parent))
    assert read_record(f"~/{transform.name}") == read_record(transform) is not None
