"""`train` end to end: settings, runs that continue, and weights that register."""

import json

import pytest
from chests import MOTION, breath
from command_line import refused, register, run, torchrun
from L2ORegistrationLib.core.files import write_volume

TINY = "variant = 'falta2022'\ncrop = 6\nkeypoints = 50\niterations = [2, 2]\naccumulate = 2\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("colour = 3", "no training setting 'colour'"),
        ("steps = 'many'", "must be like"),
        ("iterations = 4", "2 numbers"),
        ("variant = 'other'", "no variant"),
        ("steps =", "TOML"),
    ],
)
def test_bad_training_settings_are_refused(text, told, tmp_path):
    (tmp_path / "bad.toml").write_text(text)
    command = ("train", "--out", tmp_path / "out", "--config", tmp_path / "bad.toml")
    assert told in refused(*command, within=tmp_path)


@pytest.mark.slow
def test_train_continues_and_its_weights_register(data, tmp_path):
    (tmp_path / "tiny.toml").write_text("width = 8\n")
    command = ("train", "--out", tmp_path / "out", "--phantoms", 1, "--threads", 1, "--quiet")
    command += ("--config", tmp_path / "tiny.toml", "--json")
    weights = []
    for steps in (1, 2):
        code, out, err = run(*command, "--steps", steps)
        assert code == 0, err
        weights.append(json.loads(out)["sha256"])
    assert weights[0] != weights[1]
    other = run(*command, "--steps", 2, "--seed", 1)
    assert other[0] == 2 and "another seed" in json.loads(other[1])["error"]
    code, _, err = run(
        *register(data, tmp_path / "t.h5"), "--model", tmp_path / "out" / "trained.pt", "--quiet"
    )
    assert code == 0, err


def test_what_learns_from_close_ups_takes_no_real_scans(pairs, tmp_path):
    command = ("train", "--out", tmp_path / "out", "--config", "l2o")
    data = ("--data", f"pairs={pairs}", "--cases", "good")
    told = refused(*command, *data, within=tmp_path)
    assert "learns from phantoms only" in told


@pytest.fixture
def pairs(tmp_path):
    """Two pairs of one small chest, one of which turns out damaged when its voxels are read."""
    for name in ("good", "torn"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for side, motion in (("fixed", 0.0), ("moving", MOTION)):
            write_volume(breath(motion), tmp_path / "mine" / name / f"{side}.nii.gz")
    torn = tmp_path / "mine/torn/moving.nii.gz"
    content = bytearray(torn.read_bytes())
    content[2000:-2000] = bytes(len(content) - 4000)
    torn.write_bytes(content)
    return tmp_path / "mine"


@pytest.mark.slow
def test_real_scans_without_masks_and_keypoints_train(pairs, tmp_path):
    """Lungs and correspondences are found; a damaged case stops, or is named and left out."""
    (tmp_path / "tiny.toml").write_text(TINY)
    command = ("train", "--out", tmp_path / "out", "--data", f"pairs={pairs}", "--threads", 1)
    command += ("--config", tmp_path / "tiny.toml", "--device", "cpu")
    code, _, err = run(*command, "--steps", 1)
    assert code == 2 and "Case torn: " in err and not (tmp_path / "out/checkpoint.pt").exists()
    code, out, err = run(*command, "--steps", 1, "--skip", "--json")
    assert code == 0 and "Case torn: " in err and "Skipped." in err
    card = json.loads((tmp_path / "out/trained.json").read_text("utf-8"))
    assert card["facts"]["data"] == "mine (1) pairs" and "patient" not in card["facts"]["limits"]
    assert json.loads(out)["sha256"] == card["sha256"]
    log = (tmp_path / "out/log.csv").read_text("utf-8").splitlines()
    assert [line.split(",")[0] for line in log] == ["step", "1", "1"]
    # Two processes go on with the prepared pair; only the first one prints and writes.
    done = torchrun(2, *command, "--steps", 2, "--cases", "good")
    assert done.returncode == 0 and done.stdout.count("Wrote") == 1, done.stderr
    card = json.loads((tmp_path / "out/trained.json").read_text("utf-8"))
    assert card["facts"]["device"] == "2 processes on cpu, float32"
    log = (tmp_path / "out/log.csv").read_text("utf-8").splitlines()
    assert [line.split(",")[0] for line in log[1:]] == ["1"] * 2 + ["2"] * 4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--phantoms", "0"), "nothing to train on"),
        (("--data", "phantom=0-3"), "NAME of 4dct, copd, empire10, learn2reg, pairs"),
        (("--data", "copd=nowhere"), "does not exist"),
        (("--name", "checkpoint"), "cannot be called 'checkpoint'"),
        (("--name", ""), "cannot be called ''"),
        (("--name", "../mine"), "cannot be called '../mine'"),
        (("--name", "mine", "--folds"), "leave --name out"),
        (("--config", "papers"), "packaged are falta2022, falta2022-cpu, l2o"),
        (("--device", "tpu"), "not available here"),
        (("--begin-with", "typo"), "There are no weights 'typo'"),  # before any phantom is drawn
        (("--config", "falta2022", "--start-model", "typo"), "There are no weights 'typo'"),
    ],
)
def test_data_that_cannot_be_used_is_refused(arguments, told, tmp_path):
    assert told in refused("train", "--out", tmp_path / "out", *arguments, within=tmp_path)
