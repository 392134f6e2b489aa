"""`train --folds`: each fold is trained without its test cases and measured on them, once."""

import csv
import json
import shutil

import numpy as np
import pytest
from chests import GRID, MOTION, breath
from command_line import refused, run
from L2ORegistrationLib.core.files import write_volume
from L2ORegistrationLib.datasets import dirlab, folds
from L2ORegistrationLib.datasets import registry as datasets
from L2ORegistrationLib.datasets.registry import DATASETS, Dataset, load_dataset
from L2ORegistrationLib.engine.models import export_model
from L2ORegistrationLib.engine.optimise.voxelmorph import VoxelMorph
from L2ORegistrationLib.training.real import real_pairs

SETTINGS = "variant = 'falta2022'\ncrop = 6\nkeypoints = 50\niterations = [2, 2]\naccumulate = 1\n"
POINTS = np.array([[15, 18, 12], [27, 20, 18], [14, 22, 16]])  # voxels from 1, z from the head


def write(folder, images, points, moved):
    """Two volumes and their points, in the files that DIR-Lab publishes."""
    folder.mkdir(parents=True)
    for path, motion in zip(images, (0.0, MOTION), strict=True):
        hu = breath(motion).array[::-1]
        (hu + 1024).astype("<i2").tofile(folder / path)
    for path, index in zip(points, (POINTS, moved), strict=True):
        (folder / path).write_text("".join("\t".join(map(str, row)) + "\n" for row in index))


@pytest.fixture
def dirlab20(tmp_path, monkeypatch):
    """Twenty small DIR-Lab cases that are all the same chest, and two small folds."""
    geometry = dirlab.Geometry(GRID.size, GRID.spacing)
    moved = np.round(POINTS + MOTION / GRID.spacing * (1, 1, -1)).astype(int)
    for name, case, image, points, sides in (
        ("copd", "copd", "{}_{}BHCT.img", "{}_300_{}BH_xyz_r1.txt", "ie"),
        ("4dct", "case", "{}_T{}.img", "{}_300_T{}_xyz.txt", ("00", "50")),
    ):
        for i in range(1, 11):
            files = [
                [text.format(f"{case}{i}", side) for side in sides] for text in (image, points)
            ]
            write(tmp_path / name / f"{case}{i}", *files, moved)
    for name, entries, cases in (
        ("copd", dirlab.copd, dirlab.COPD),
        ("4dct", dirlab.four_d, dirlab.FOUR_D),
    ):
        small = dict.fromkeys(cases, geometry)
        kind = Dataset(DATASETS[name].title, lambda f, e=entries, s=small: e(f, s), "")
        monkeypatch.setitem(datasets.DATASETS, name, kind)
    monkeypatch.setattr(folds, "TEST_FOLDS", ((0,), (10,)))
    (tmp_path / "tiny.toml").write_text(SETTINGS)
    return tmp_path


def prepare(folder):
    """Prepare one case; the others, which are the same, are given its file."""
    (path,) = real_pairs(load_dataset("copd", folder / "copd", cases=["copd1"]), folder)
    for title, stem in (("DIR-Lab COPDgene", "copd"), ("DIR-Lab 4DCT", "case")):
        (folder / "out/pairs" / title).mkdir(parents=True)
        for i in range(1, 11):
            shutil.copy(path, folder / "out/pairs" / title / f"{stem}{i}.pt")


@pytest.mark.slow
def test_folds_are_trained_and_measured_once(dirlab20):
    prepare(dirlab20)
    out = dirlab20 / "out"
    command = ("train", "--out", out, "--config", dirlab20 / "tiny.toml", "--steps", 1)
    command += ("--data", f"copd={dirlab20 / 'copd'}", "--data", f"4dct={dirlab20 / '4dct'}")
    command += ("--threads", 1, "--device", "cpu", "--json")

    code, shown, err = run(*command, "--fold", 2)
    assert code == 0, err
    assert list(json.loads(shown)["results"]) == ["DIR-Lab 4DCT"]
    assert not (out / "fold-1").exists()
    finished = [out / "fold-2" / name for name in ("checkpoint.pt", "runs.json")]
    written = [path.stat().st_mtime_ns for path in finished]

    code, shown, err = run(*command, "--folds")
    assert code == 0, err
    assert list(json.loads(shown)["results"]) == ["DIR-Lab COPDgene", "DIR-Lab 4DCT"]
    card = json.loads((out / "fold-1/fold-1.json").read_text("utf-8"))
    assert card["facts"]["data"] == "DIR-Lab COPDgene (9), DIR-Lab 4DCT (10) pairs"
    trained = json.loads((out / "fold-1/data.json").read_text("utf-8"))
    assert "copd1" not in trained["DIR-Lab COPDgene"]
    with open(out / "cases.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["case"], row["method"]) for row in rows} == {
        (case, method)
        for case in ("copd1", "case1")
        for method in ("initial", "falta2022-affine", "falta2022-search")
    }
    initial = np.linalg.norm(np.round(MOTION / GRID.spacing) * GRID.spacing)
    for row in rows:
        assert not row["error"] and row["points"] == "landmarks"
        if row["method"] == "initial":
            assert float(row["tre_mean"]) == pytest.approx(initial)
        else:
            assert ("fold-1" if row["case"] == "copd1" else "fold-2") in row["software"]
    assert "## DIR-Lab 4DCT (1 case)" in (out / "table.md").read_text(encoding="utf-8")
    # What was finished is neither trained nor measured again.
    assert [path.stat().st_mtime_ns for path in finished] == written


def test_weights_that_a_later_fold_misses_are_told_before_the_first_is_trained(dirlab20):
    export = {"version": "1", "licence": "none", "iterations": 1, "trained_iterations": (1, 1)}
    export_model(VoxelMorph(), dirlab20 / "fold-1.pt", **export)
    command = ("train", "--out", dirlab20 / "out", "--config", dirlab20 / "tiny.toml", "--folds")
    command += ("--data", f"copd={dirlab20 / 'copd'}", "--data", f"4dct={dirlab20 / '4dct'}")
    command += ("--start-model", dirlab20 / "fold-{fold}.pt")
    assert "fold-2.pt" in refused(*command, within=dirlab20)


def test_folds_that_cannot_be_made_are_refused(dirlab20):
    out = dirlab20 / "out"
    four_d, copd = (("--data", f"{name}={dirlab20 / name}") for name in ("4dct", "copd"))
    told = refused("train", "--out", out, "--folds", *four_d, within=dirlab20)
    assert "give --data copd=FOLDER as well" in told
    told = refused("train", "--out", out, "--fold", 1, within=dirlab20)
    assert "--data copd=FOLDER --data 4dct=FOLDER" in told.replace(" and", "")
    told = refused("train", "--out", out, "--folds", *four_d, *copd, "--skip", within=dirlab20)
    assert "The folds need every case" in told
    other = dirlab20 / "mine/a"
    other.mkdir(parents=True)
    for side in ("fixed", "moving"):
        write_volume(breath(), other / f"{side}.nii.gz")
    mine = ("--data", f"pairs={dirlab20 / 'mine'}")
    told = refused("train", "--out", out, "--folds", *four_d, *copd, *mine, within=dirlab20)
    assert "mine has no place in the folds" in told
    (dirlab20 / "copd/copd7/copd7_eBHCT.img").unlink()
    told = refused("train", "--out", out, "--folds", *four_d, *copd, within=dirlab20)
    assert "Case copd7" in told and "is missing" in told
