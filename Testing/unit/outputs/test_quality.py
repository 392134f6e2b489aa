"""TG-132's rows: what each measures, what it tolerates, and that it says what it could not see."""

import json
import re

import numpy as np
import pytest
from L2ORegistrationLib.cli import main
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import write_transform, write_volume
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.core.landmarks import Landmarks, write_landmarks
from L2ORegistrationLib.outputs.quality import assess
from scipy import ndimage

GRID = Grid((40, 40, 40), (2.0, 2.0, 2.0))
CUBE = np.zeros(GRID.shape, np.uint8)
CUBE[10:30, 10:30, 10:30] = 1


def shift(*by):
    return DisplacementField(np.full((*GRID.shape, 3), by, np.float32), GRID)


def cube(x=0):
    return Volume(np.roll(CUBE, x, axis=2), GRID)


def by_name(rows):
    return {(row.name.split()[0], row.where): row for row in rows}


def test_nothing_given_is_nothing_measured():
    rows = assess(shift(0, 0, 0))
    assert len(rows) == 5 and all(row.passed is None for row in rows)
    assert {row.verdict for row in rows} == {"not measured"}
    assert all(row.value.startswith("needs") for row in rows)


def test_every_row_has_the_value_known_by_hand():
    fixed = np.array([[20.0, 30, 40], [30, 30, 40]])
    rows = by_name(
        assess(
            shift(4, 0, 0),
            (fixed, fixed + [[5, 0, 0], [4, 0, 7]]),
            {"cube": (cube(), cube(3))},  # 6 mm away, of which 4 are undone: one voxel is left
            backward=shift(-4, 0, 1),
        )
    )
    tre = rows["Target", "landmarks"]
    assert tre.measures["mean"] == pytest.approx(4) and tre.measures["max"] == pytest.approx(7)
    assert tre.measures["points"] == 2 and tre.passed is False
    dice = rows["Dice", "cube"]
    assert dice.measures["dice"] == pytest.approx(0.95) and dice.measures["highest"] == 1
    assert dice.passed and rows["Mean", "cube"].passed
    # Two sides of six are 2 mm off; edges and corners make the rest.
    assert rows["Mean", "cube"].measures["mean"] == pytest.approx(2 / 3, abs=0.1)
    assert rows["Jacobian", "cube"].measures["min"] == pytest.approx(1, abs=1e-5)
    assert rows["Consistency", "cube"].measures["mean"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "errors, passed",
    [((1, 1, 4.9), False), ((1, 1, 1), True), ((0, 0, 6), False), ((2, 0, 2), True)],
)
def test_the_error_at_landmarks_must_be_small_on_average_and_at_most(errors, passed):
    """At most 2 mm on average and 5 mm at each."""
    fixed = np.array([[20.0, 30, 40], [30, 30, 40], [40, 40, 40]])
    moving = fixed + np.array(errors)[:, None] * [1, 0, 0]
    (row,) = [r for r in assess(shift(0, 0, 0), (fixed, moving)) if r.name.startswith("Target")]
    assert row.passed is passed


def test_a_fixed_mask_cut_to_its_structure_tells_what_the_whole_one_does():
    whole = cube()
    tight = whole.part(*whole.box())
    larger = Volume(ndimage.binary_dilation(CUBE, iterations=3), GRID)
    rows = [by_name(assess(shift(4, 0, 0), structures={"it": (m, larger)})) for m in (whole, tight)]
    for name in ("Dice", "Mean"):
        expected, found = (row[name, "it"].measures for row in rows)
        assert found == pytest.approx(expected)
    assert rows[1]["Dice", "it"].measures["dice"] < 0.8


def test_the_highest_dice_is_that_of_the_volumes():
    small = CUBE.copy()
    small[:, :, 20:] = 0
    (row,) = [
        row
        for row in assess(shift(0, 0, 0), structures={"half": (Volume(small, GRID), cube())})
        if row.name.startswith("Dice")
    ]
    assert row.measures["dice"] == row.measures["highest"] == pytest.approx(2 / 3)
    assert row.passed is False and "at most 0.667" in row.value


def test_a_fold_counts_in_the_structure_that_holds_it():
    field = shift(0, 0, 0)
    field.array[20, 20, 20, 0] = -9
    away = np.zeros_like(CUBE)
    away[:5, :5, :5] = 1
    rows = by_name(assess(field, masks={"in": cube(), "away": Volume(away, GRID)}))
    assert rows["Jacobian", "in"].passed is False and rows["Jacobian", "away"].passed


def test_a_fold_between_the_voxels_of_a_mask_counts():
    """The nodes fold, the mask's thick slices lie between them."""
    field = shift(0, 0, 0)
    field.array[20, 20, 20, 0] = -9
    thick = Grid((GRID.size[0], GRID.size[1], 8), (2.0, 2.0, 10.0), (0.0, 0.0, 5.0))
    mask = Volume(np.ones(thick.shape, np.uint8), thick)
    mask = Volume(mask.array * (np.abs(thick.points()[..., 2] - 45) < 6), thick)
    (row,) = [r for r in assess(field, masks={"in": mask}) if r.name.startswith("Jacobian")]
    assert row.measures["min"] < 0 and row.passed is False


def test_what_the_field_does_not_reach_is_not_measured():
    beyond = Grid(GRID.size, GRID.spacing, (900.0, 0.0, 0.0))
    rows = assess(shift(0, 0, 0), masks={"beyond": Volume(CUBE, beyond)})
    (row,) = [r for r in rows if r.name.startswith("Jacobian")]
    assert row.passed is None and "does not reach" in row.value


def test_a_structure_that_fills_the_grid_has_a_surface():
    whole = Volume(np.ones_like(CUBE), GRID)
    rows = by_name(assess(shift(0, 0, 0), structures={"all": (whole, whole)}))
    assert rows["Mean", "all"].measures["mean"] == 0 and rows["Dice", "all"].passed


def test_an_empty_structure_is_refused():
    empty = Volume(np.zeros(GRID.shape, np.uint8), GRID)
    with pytest.raises(InputError, match="tumour is empty"):
        assess(shift(0, 0, 0), structures={"tumour": (empty, cube())})


def test_evaluate_writes_the_page(tmp_path, capsys):
    write_transform(shift(6, 0, 0), tmp_path / "t.nrrd")
    write_transform(shift(-6.1, 0, 0), tmp_path / "b.nrrd")  # an inverse would not count
    write_volume(cube(), tmp_path / "f.nii.gz")
    write_volume(cube(3), tmp_path / "m.nii.gz")
    page = tmp_path / "qa.html"
    arguments = [
        tmp_path / "t.nrrd", "--fixed-structures", tmp_path / "f.nii.gz",
        "--moving-structures", tmp_path / "m.nii.gz", "--backward", tmp_path / "b.nrrd",
        "--qa", page, "--json",
    ]  # fmt: skip
    assert main(["evaluate", *map(str, arguments)]) == 0
    rows = json.loads(capsys.readouterr().out)["quality"]
    assert [row["verdict"] for row in rows] == ["not measured"] + ["within"] * 4
    text = page.read_text("utf-8")
    assert "1.000 (at most 1.000 with these volumes)" in text and "needs landmark pairs" in text
    table, known = text.split("What was measured")
    assert table.count("<tr>") == 6 and str(tmp_path / "b.nrrd") in known


def test_the_page_names_the_landmarks_that_are_furthest_off(tmp_path, capsys):
    write_transform(shift(6, 0, 0), tmp_path / "t.nrrd")
    points = np.array([[40.0, 40, 40], [30, 40, 40], [40, 30, 40]])
    write_landmarks(Landmarks(points), tmp_path / "f.csv")
    write_landmarks(Landmarks(points + [[6, 0, 0], [2, 0, 0], [5, 0, 0]]), tmp_path / "m.csv")
    arguments = [
        tmp_path / "t.nrrd", "--fixed-landmarks", tmp_path / "f.csv",
        "--moving-landmarks", tmp_path / "m.csv", "--qa", tmp_path / "qa.html",
    ]  # fmt: skip
    assert main(["evaluate", *map(str, arguments)]) == 0
    text = (tmp_path / "qa.html").read_text("utf-8").split("furthest off")[1]
    rows = re.findall(r"<tr><td>(\d), at .*?</td><td>([\d.]+)</td><td>([\d.]+)</td></tr>", text)
    assert rows == [("2", "2.00", "4.00"), ("3", "5.00", "1.00"), ("1", "6.00", "0.00")]


def test_structures_of_one_scan_alone_are_refused(tmp_path, capsys):
    write_transform(shift(0, 0, 0), tmp_path / "t.nrrd")
    write_volume(cube(), tmp_path / "f.nii.gz")
    arguments = ["evaluate", tmp_path / "t.nrrd", "--fixed-structures", tmp_path / "f.nii.gz"]
    assert main(list(map(str, arguments))) == 2
    assert "come in pairs" in capsys.readouterr().err
