"""The table says what was measured, each registration is measured alone, failures are told."""

import csv
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from bodies import OBLIQUE, SHIFT, bodies, scanned
from L2ORegistrationLib import cli
from L2ORegistrationLib.benchmark import figure, measure, methods, table
from L2ORegistrationLib.benchmark.run import Measurement, run
from L2ORegistrationLib.commands import benchmark as shown
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.datasets.registry import load_dataset


def result(errors, *, steps=(), **more):
    return {
        "tre": list(errors),
        "snapped": list(errors),
        "near": [True] + [False] * (len(errors) - 1),
        "jacobian": {"sdlogj": 0.1, "sdlogj_learn2reg": 0.02, "folding": 0.001, "min": 0.5},
        "seconds": 2.0,
        "seconds_process": 4.0,
        "peak_gb": 1.0,
        "steps": [
            {"index": i, "stage": "l2o", "level": 0, "dissimilarity": 1.0, "seconds": i, "mean": m}
            for i, m in enumerate(steps)
        ],
        **more,
    }


RUNS = [
    Measurement("A", "1", "initial", "landmarks", result([3.0, 5.0, 4.0, 4.0])),
    Measurement("A", "1", "l2o-search", "landmarks", result([1.0, 3.0], steps=(4.0, 3.0, 2.0))),
    Measurement("A", "2", "initial", "landmarks", result([6.0, 10.0])),
    Measurement(
        "A", "2", "l2o-search", "landmarks", result([0.0, 2.0], steps=(8.0, 5.0, 1.5, 1.0))
    ),
    Measurement("B", "x", "initial", "", {"error": "Case x: x.img is missing."}),
]


def test_every_case_weighs_the_same_in_the_table():
    found = table.summary(RUNS)
    assert found["A"]["initial"]["tre_mean"] == 6.0
    assert found["A"]["l2o-search"]["tre_mean"] == 1.5
    spread = [(1 - 1.5) ** 2, (3 - 1.5) ** 2, (0 - 1.5) ** 2, (2 - 1.5) ** 2]
    assert found["A"]["l2o-search"]["tre_sd"] == pytest.approx(math.sqrt(np.mean(spread)))
    assert found["A"]["l2o-search"]["pleura_mean"] == 0.5
    assert found["B"]["initial"] == {"cases": 0, "failed": 1}


def test_the_table_as_text_and_csv(tmp_path):
    table.write(RUNS, tmp_path)
    text = (tmp_path / "table.md").read_text("utf-8")
    assert "| L2O with pre-reg. | 1.50 ± 1.12 |  |" in text
    assert "## A (2 cases)" in text and "Initial (1 failed)" in text
    by_case = ["| TRE mean of | 1 | 2 |", "|---|---|---|", "| Initial | 4.00 | 8.00 |"]
    assert "\n".join([*by_case, "| L2O with pre-reg. | 2.00 | 1.00 |"]) in text
    assert "| TRE mean of | x |" not in text
    rows = list(csv.DictReader(open(tmp_path / "cases.csv", encoding="utf-8")))
    assert len(rows) == 5 and rows[4]["error"].startswith("Case x")
    assert float(rows[1]["tre_mean"]) == 2 and rows[1]["pleura_count"] == "1"
    steps = list(csv.DictReader(open(tmp_path / "iterations.csv", encoding="utf-8")))
    assert [float(s["tre_mean"]) for s in steps] == [4, 3, 2, 8, 5, 1.5, 1]


def test_labels_are_compared_on_the_fixed_grid_after_they_moved():
    grid = Grid((10, 8, 6), (2.0, 2.0, 2.0))
    fixed, moving = (np.zeros(grid.shape, np.int16) for _ in range(2))
    fixed[2:4, 2:4, 2:6], moving[2:4, 2:4, 4:8] = 1, 1  # two voxels, 4 mm, further on along x
    fixed[5, 6, 2:6], moving[5, 6, 2:6] = 7, 7  # stays, and is led astray
    moving[0, 0, 0] = 3  # in one scan only
    labels = Volume(fixed, grid), Volume(moving, grid)
    field = DisplacementField.zeros(grid)
    assert measure.label_dice(*labels, field) == {"1": 0.5, "7": 1.0}
    field.array[..., 0] = 4.0
    assert measure.label_dice(*labels, field) == {"1": 1.0, "7": 0.5}
    field.array[..., 0] = 400.0  # none of them arrives
    assert measure.label_dice(*labels, field) == {"1": 0.0, "7": 0.0}


def test_memory_that_a_program_of_a_method_takes_is_counted():
    more = int(measure.children_mb()) + 100  # than any that was started before
    subprocess.run([sys.executable, "-c", f"b'1' * ({more} << 20)"], check=True)
    assert measure.children_mb() > more


def test_label_dice_is_a_column_where_there_are_labels():
    lobes = {"dice": {"1": 0.9, "2": 0.8}}
    runs = [Measurement("A", "1", "initial", "landmarks", result([3.0, 5.0], **lobes))]
    assert "| label Dice |" in table.markdown(runs) and "| 0.850 |" in table.markdown(runs)
    assert table.case_row(runs[0])["dice_2"] == 0.8
    assert "label Dice" not in table.markdown(RUNS)


def test_the_error_at_each_landmark_is_written(tmp_path):
    table.write(RUNS, tmp_path)
    rows = list(csv.DictReader(open(tmp_path / "points.csv", encoding="utf-8")))
    second = [r for r in rows if r["case"] == "2" and r["method"] == "l2o-search"]
    assert [(r["point"], float(r["tre"]), r["near_pleura"]) for r in second] == [
        ("0", 0.0, "1"),
        ("1", 2.0, "0"),
    ]
    assert len(rows) == 10 and not any(r["dataset"] == "B" for r in rows)


def test_where_the_time_goes(tmp_path):
    def timed(*steps):
        names = ("stage", "level", "seconds")
        return {"steps": [dict(zip(names, step, strict=True)) for step in steps], "seconds": 9.0}

    first = timed(("initial", 0, 1.0), ("start", 0, 3.0), ("l2o", 0, 3.5), ("l2o", 0, 4.5))
    second = timed(("initial", 0, 2.0), ("start", 0, 2.5), ("l2o", 0, 4.0), ("refine", 1, 5.0))
    runs = [Measurement("A", str(i), "l2o-search", "", r) for i, r in enumerate((first, second))]
    runs.append(Measurement("A", "0", "elastix", "", {"seconds": 1.0}))
    names = ("preparation", "start", "l2o, level 1", "refine, level 2")
    seconds = dict(zip(names, (1.5, 1.25, 1.5, 0.5), strict=True))
    assert table.stages(runs) == {"A": {"l2o-search": seconds}}
    table.write(runs, tmp_path)
    text = (tmp_path / "table.md").read_text("utf-8")
    assert "| seconds of | preparation | start | l2o, level 1 | refine, level 2 |" in text
    assert "| L2O with pre-reg. | 1.50 | 1.25 | 1.50 | 0.50 |" in text


def test_the_figure_averages_over_cases_from_the_start_on(tmp_path):
    (errors,) = figure.curves(RUNS)["A"].values()
    np.testing.assert_allclose(errors, [4.0, 1.75])
    assert figure.draw(RUNS, tmp_path / "iterations.png")
    assert (tmp_path / "iterations.png").stat().st_size > 5000
    assert not figure.draw(RUNS[:1], tmp_path / "none.png")


def test_a_case_that_a_method_failed_on_is_told_beside_its_mean_and_left_out_of_all_curves():
    failed = Measurement("A", "2", "adam-search", "landmarks", {"error": "no"})
    easy = Measurement("A", "1", "adam-search", "landmarks", result([1.0], steps=(4.0, 1.0)))
    assert "| Adam with pre-reg. | 1.00 ± 0.00 (1 failed) |" in table.markdown(
        [*RUNS, easy, failed]
    )
    curves = figure.curves([*RUNS, easy, failed])["A"]
    np.testing.assert_allclose(curves["l2o-search"], [3.0, 2.0])  # of case 1 alone
    np.testing.assert_allclose(curves["adam-search"], [1.0])
    alone = Measurement("A", "3", "adam-search", "landmarks", result([1.0], steps=(4.0, 1.0)))
    assert figure.curves([*RUNS, alone]) == {}  # nothing to compare


def test_errors_at_keypoints_are_called_so():
    runs = [replace(run, points="keypoints") if run.case == "2" else run for run in RUNS]
    assert "automatically, not by experts, in 1 of 2 cases" in table.markdown(runs)
    assert "automatically" not in table.markdown(RUNS)
    assert "in all cases" in table.markdown([run for run in runs if run.case == "2"])


def test_names_and_numbers_are_shown_whole(capsys, monkeypatch):
    monkeypatch.setattr(shown.out, "width", 80)
    given = result([11.0, 12.0], dice={"1": 0.9})
    runs = [Measurement("A", "1", m, "landmarks", given) for m in methods.METHODS]
    runs += [Measurement("A", "2", m, "landmarks", {"error": "no"}) for m in methods.METHODS]
    shown.show(runs, Path("out"))
    text = capsys.readouterr().out
    names = [f"{method.title} (1 failed)" for method in methods.METHODS.values()]
    assert all(part in text for part in [*names, *table.COLUMNS]) and "…" not in text


def test_methods_are_chosen_in_the_tables_order():
    assert methods.chosen(["l2o", "initial"], False) == ["initial", "l2o-affine", "l2o-search"]
    peers = methods.installed()
    assert methods.chosen(["start"], True) == ["start-affine", "start-search", *peers]
    with pytest.raises(InputError, match="no method 'peers'"):
        methods.chosen(["peers"], False)


def test_points_near_the_pleura():
    grid = Grid((40, 40, 40), (1.5,) * 3)
    mask = Volume(np.zeros(grid.shape, bool), grid)
    mask.array[5:35, 5:35, 5:35] = True
    points = grid.to_world([(20, 20, 20), (20, 20, 32), (20, 20, 25), (2, 20, 20)])
    np.testing.assert_array_equal(measure.near_pleura(points, mask), [False, True, False, True])


def test_a_registration_is_measured_alone(tmp_path):
    """Its memory is its own: what the parent holds does not count, nor what it held before."""
    held = np.ones(60_000_000)
    bodies(tmp_path / "pair")
    (done,) = run({"P": load_dataset("pairs", tmp_path)}, ["initial"], {"threads": 1})
    assert held.nbytes / 2**30 > done.result["peak_gb"] > 0.02
    assert 0 < done.result["seconds"] < done.result["seconds_process"]
    np.testing.assert_allclose(done.result["tre"], np.linalg.norm(SHIFT), atol=1e-6)
    still = {"sdlogj": 0, "sdlogj_learn2reg": 0, "folding": 0, "min": 1}
    assert done.result["jacobian"] == pytest.approx(still, abs=1e-9)
    assert not done.result["steps"] and done.points == "landmarks"


def test_a_process_that_was_killed_is_told(tmp_path, monkeypatch):
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    bodies(tmp_path / "pair")
    monkeypatch.setattr(sys, "executable", str(killed))
    (done,) = run({"P": load_dataset("pairs", tmp_path)}, ["initial"], {})
    assert "killed, probably because the memory ran out" in done.result["error"]


def test_a_temporary_folder_without_room_is_told_and_ends_no_other_case(tmp_path, room_for):
    data = {"P": load_dataset("pairs", bodies(tmp_path / "pair").parent)}
    for room in (100, 100_000):
        with room_for(room):
            runs = list(run(data, ["initial", "start-affine"], {"threads": 1}))
        assert len(runs) == 2
        assert all("is there space left?" in one.result["error"] for one in runs)


@pytest.mark.parametrize("warm_up, calls", [(False, 1), (True, 2)])
def test_a_method_can_run_once_before_the_clock_starts(tmp_path, monkeypatch, warm_up, calls):
    scan, taken = scanned(tmp_path), []
    still = methods.METHODS["initial"]
    counting = replace(still, run=lambda *given: taken.append(0) or still.run(*given))
    monkeypatch.setitem(methods.METHODS, "initial", counting)
    measure.measure(scan, "initial", {"warm_up": warm_up}, 0.0)
    assert len(taken) == calls


def test_our_methods_give_steps(tmp_path):
    scan = scanned(tmp_path)
    found = measure.measure(scan, "adam-affine", {"threads": 1}, time.time())
    assert [s["index"] for s in found["steps"][:2]] == [0, 1]
    assert found["steps"][0]["mean"] == pytest.approx(np.linalg.norm(SHIFT), abs=1e-4)
    assert found["seconds_process"] >= found["seconds"] > 0
    start = measure.measure(scan, "start-affine", {"threads": 1}, time.time())
    assert start["steps"] == [] and len(start["tre"]) == 20


def test_the_command_goes_on_after_a_case_that_cannot_be_read(tmp_path, capsys):
    bodies(tmp_path / "data/a")
    bodies(tmp_path / "data/b")
    flat = Volume(np.zeros(OBLIQUE.shape, np.float32), OBLIQUE)
    sitk.WriteImage(flat.to_image(), str(tmp_path / "data/a/moving.nii.gz"))
    arguments = ["benchmark", "--data", f"pairs={tmp_path / 'data'}", "--methods", "initial"]
    out = tmp_path / "out"
    assert cli.main([*arguments, "--out", str(out), "--json"]) == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out)["results"]["data"]["initial"]
    assert found["cases"] == 1 and found["failed"] == 1
    assert "same value everywhere" in shown.err
    assert found["tre_mean"] == pytest.approx(np.linalg.norm(SHIFT))
    assert sorted(os.listdir(out)) == ["cases.csv", "points.csv", "table.md"]


def test_a_missing_file_stops_the_command_or_is_skipped(tmp_path, capsys):
    bodies(tmp_path / "data/a")
    bodies(tmp_path / "data/b")
    (tmp_path / "data/a/moving.nii.gz").unlink()
    arguments = ["benchmark", "--data", f"pairs={tmp_path / 'data'}", "--methods", "initial"]
    arguments += ["--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    assert "Case a" in capsys.readouterr().err
    assert cli.main([*arguments, "--skip"]) == 0
    shown = capsys.readouterr()
    assert "Skipped" in shown.err and "near pleura" in " ".join(shown.out.split())


def test_cases_are_chosen_from_the_data_set_that_has_them(tmp_path, capsys):
    for name in ("one/a", "one/b", "two/c"):
        bodies(tmp_path / name)
    arguments = ["benchmark", "--methods", "initial", "--json", "--out", str(tmp_path / "out")]
    for name in ("one", "two"):
        arguments += ["--data", f"pairs={tmp_path / name}"]
    assert cli.main([*arguments, "--cases", "b"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert list(found) == ["one"] and found["one"]["initial"]["cases"] == 1
    assert cli.main([*arguments, "--cases", "a,z"]) == 2
    assert "has a case z" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "dirlab=/x"], "--data needs NAME=FOLDER"),
        (["--data", "phantom=0", "--methods", "demons"], "no method 'demons'"),
        (["--data", "copd=/nowhere"], "does not exist.*emory"),
        (["--data", "phantom=0", "--model", "nothing"], "no weights 'nothing'"),
        (["--data", "phantom=0", "--methods", "adam", "--model", "l2o"], "rows of l2o"),
        (["--data", "phantom=0", "--model", "falta2022"], "belong to the method falta2022, not"),
        (["--data", "phantom=0", "--iterations", "1,2,3"], "Adam has 2 levels"),
        (["--data", "phantom=0", "--device", "tpu"], "tpu"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, capsys):
    assert cli.main(["benchmark", *arguments]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
