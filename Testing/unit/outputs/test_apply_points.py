"""Points arrive where the transform leads, and say how sure that is."""

import json

import numpy as np
from L2ORegistrationLib.cli import main
from L2ORegistrationLib.core.files import (
    Landmarks,
    read_landmarks,
    write_landmarks,
    write_transform,
    write_volume,
)
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.outputs import points
from L2ORegistrationLib.outputs.inverse import invert
from L2ORegistrationLib.outputs.quality import _consistency
from moved import CENTRE, GRID, SHIFT, ball, refused, shift


def test_points_go_either_way():
    field = shift()
    there = points.to_moving(CENTRE[None], field)
    assert np.allclose(there.points, CENTRE + SHIFT) and not there.warnings()
    assert np.allclose(points.to_fixed(there.points, field).points, CENTRE, atol=1e-3)
    far = points.to_moving([[0.0, 0.0, 900.0]], field)
    assert "beyond the field" in far.warnings()[0]


def test_a_marked_point_is_found_in_the_other_scan(transform, tmp_path):
    write_landmarks(Landmarks(CENTRE[None], ("nodule",)), tmp_path / "p.csv")
    out = tmp_path / "q.mrk.json"
    assert main(["apply", str(transform), str(tmp_path / "p.csv"), "-o", str(out)]) == 0
    found = read_landmarks(out)
    assert found.labels == ("nodule",) and np.allclose(found.points, CENTRE - SHIFT, atol=1e-3)


def test_points_are_no_label_map(transform, tmp_path, capsys):
    write_landmarks(Landmarks(CENTRE[None], ("nodule",)), tmp_path / "p.csv")
    command = ["apply", transform, tmp_path / "p.csv", "-o", tmp_path / "q.csv", "--labels"]
    assert main(list(map(str, command))) == 2
    assert "--labels is for label maps" in capsys.readouterr().err
    assert not (tmp_path / "q.csv").exists()


def test_a_point_says_how_sure_it_is(transform, tmp_path, capsys):
    write_landmarks(Landmarks(CENTRE[None], ("nodule",)), tmp_path / "p.csv")
    write_transform(shift(by=-SHIFT + [0, 0, 1.5]), tmp_path / "b.h5")
    arguments = [
        transform, tmp_path / "p.csv", "-o", tmp_path / "q.csv", "--to", "moving",
        "--backward", tmp_path / "b.h5", "--json",
    ]  # fmt: skip
    assert main(["apply", *map(str, arguments)]) == 0
    said = json.loads(capsys.readouterr().out)
    # How far two registrations disagree is no bound that most errors keep to.
    assert said["disagreement_mm"] == {"nodule": 1.5} and "confidence_mm" not in said
    assert said["how"].startswith("fixed to moving")
    # What the registration itself says counts where it is more, and only where it says something.
    for told, expected in ((2.5, 2.5), (1.0, 1.5), (0.0, 1.5)):
        image = np.full(GRID.shape, told, np.float32)
        image[0] = 9.0  # elsewhere
        write_volume(Volume(image, GRID), tmp_path / "c.nrrd")
        more = [*arguments, "--confidence", tmp_path / "c.nrrd"]
        assert main(["apply", *map(str, more)]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["confidence_mm"] == {"nodule": expected}
        head, line = (tmp_path / "q.csv").read_text("utf-8").splitlines()
        assert head == "x,y,z,label,confidence_mm" and line.endswith(f"nodule,{expected:.2f}")
        assert len(read_landmarks(tmp_path / "q.csv")) == 1
        marked = [a if a != tmp_path / "q.csv" else tmp_path / "q.mrk.json" for a in more]
        assert main(["apply", *map(str, marked)]) == 0
        capsys.readouterr()
        document = json.loads((tmp_path / "q.mrk.json").read_text("utf-8"))
        (point,) = document["markups"][0]["controlPoints"]
        assert point["description"] == f"confidence_mm {expected:.2f}"
        assert any("is it of this pair" in text for text in found["warnings"]) is (told == 0)


def test_points_of_one_label_are_all_told(transform, tmp_path, capsys):
    write_landmarks(Landmarks(CENTRE + 5 * np.eye(3), ("nodule",) * 3), tmp_path / "p.csv")
    told = np.full(GRID.shape, 2, np.float32)
    told[0] = 9.0  # elsewhere
    write_volume(Volume(told, GRID), tmp_path / "c.nrrd")
    arguments = [transform, tmp_path / "p.csv", "-o", tmp_path / "q.csv", "--json"]
    arguments += ["--confidence", tmp_path / "c.nrrd"]
    assert main(["apply", *map(str, arguments)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said["found"]) == ["1 nodule", "2 nodule", "3 nodule"]
    assert said["confidence_mm"] == {"1 nodule": 2, "2 nodule": 2, "3 nodule": 2}
    assert read_landmarks(tmp_path / "q.csv").labels == ("nodule",) * 3


def test_a_ct_says_nothing_of_how_sure_a_point_is(transform, tmp_path, capsys):
    write_landmarks(Landmarks(CENTRE[None]), tmp_path / "p.csv")
    ct = np.where(ball(CENTRE), 40, -1000).astype(np.int16)
    write_volume(Volume(ct, GRID), tmp_path / "ct.nrrd")
    given = [tmp_path / "p.csv", "-o", tmp_path / "q.csv", "--confidence", tmp_path / "ct.nrrd"]
    assert "negative values" in refused(capsys, tmp_path, "apply", transform, *given)


def test_of_many_points_the_numbers_are_in_the_file(transform, tmp_path, capsys):
    points = CENTRE + np.random.default_rng(0).normal(size=(30, 3))
    write_landmarks(Landmarks(points), tmp_path / "p.csv")
    assert (
        main(["apply", str(transform), str(tmp_path / "p.csv"), "-o", str(tmp_path / "q.csv")]) == 0
    )
    said = capsys.readouterr().out
    assert "found: 30 of them" in said and len(said) < 600


def test_the_inverse_is_no_second_registration(transform, tmp_path, capsys):
    """It agrees whatever the transform is: neither points nor TRE's consistency learn from it."""
    write_landmarks(Landmarks(CENTRE[None] + SHIFT, ["a"]), tmp_path / "p.csv")
    assert main(["invert", str(transform), "-o", str(tmp_path / "inverse.h5")]) == 0
    command = ["apply", transform, tmp_path / "p.csv", "-o", tmp_path / "q.csv"]
    capsys.readouterr()
    assert main([*map(str, command), "--backward", str(tmp_path / "inverse.h5")]) == 2
    assert "is the inverse of this one" in capsys.readouterr().err
    mask = Volume(ball(CENTRE).astype(np.uint8), GRID)
    row = _consistency(shift(), shift(by=-SHIFT), {"lungs": mask})[0]
    assert row.passed is None and "exchanged scans" in row.value
    row = _consistency(shift(), shift(by=-SHIFT + 0.1), {"lungs": mask})[0]
    assert row.passed and "0.17 mm" in row.value
    row = _consistency(shift(by=0 * SHIFT), shift(by=0 * SHIFT), {"lungs": mask})[0]
    assert row.passed  # a scan and itself


def test_the_inverse_of_a_deep_breath_is_found_though_it_is_not_exact():
    """A bend within a few nodes, as at a fissure: its inverse misses more than where all shifts."""
    grid = Grid((40, 40, 40), (3.0, 3.0, 3.0))
    x, y, z = np.moveaxis(grid.points(), -1, 0)
    array = np.stack([2 * np.sin(z / 5), 1.5 * np.cos(x / 6), 25 - z / 6 + np.sin(y / 5)], -1)
    field = DisplacementField(array.astype(np.float32), grid)
    inverse = invert(field, moving=grid).field
    missed = inverse.transform_points(field.transform_points(grid.points())) - grid.points()
    assert np.linalg.norm(missed, axis=-1)[8:-8, 8:-8, 8:-8].mean() > 0.015
    assert points.is_inverse(field, inverse)
    other = DisplacementField(inverse.array + np.float32([0.2, 0.2, 0]), inverse.grid)
    assert not points.is_inverse(field, other)
