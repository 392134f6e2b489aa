"""`train` end to end: settings, runs that continue, and weights that register."""

import json

import pytest
from command_line import refused, register, run


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
    settings = "crop = 16\nkeypoints = 300\niterations = [1, 1]\nrates = [1.0, 0.0, 0.0]\n"
    (tmp_path / "tiny.toml").write_text(settings)
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
