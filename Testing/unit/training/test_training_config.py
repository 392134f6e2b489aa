"""Settings: packaged and own files, what is refused, and what may change in a continued run."""

import math
from dataclasses import asdict

import pytest
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.training.config import (
    TrainingConfig,
    changed,
    experiments,
    read_config,
    renamed,
)


def test_the_packaged_settings():
    others = {"falta2022", "voxelmorph++", "lapirn"}
    assert set(experiments()) == {"l2o"} | others | {f"{name}-cpu" for name in others}
    assert all(read_config(name).variant == name.removesuffix("-cpu") for name in experiments())
    assert read_config("l2o") == read_config(None) == TrainingConfig()
    paper = read_config("falta2022", seed=3)
    assert (paper.variant, paper.iterations, paper.seed) == ("falta2022", (8, 8), 3)
    assert paper.steps * paper.accumulate == 24_000
    assert paper.halve_every * paper.accumulate == 3_000


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("steps = 7\nlearning_rate = 1\nlevel_shares = [1, 0, 0]\n")
    config = read_config(path, steps=9)
    assert (config.steps, config.learning_rate, config.level_shares) == (9, 1.0, (1, 0, 0))
    assert isinstance(config.learning_rate, float)
    with pytest.raises(
        InputError, match="configuration 'mine': packaged are falta2022, falta2022-cpu, l2o, "
    ):
        read_config("mine")
    with pytest.raises(InputError, match="nowhere.toml does not exist"):
        read_config(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("steps", 0, "more than zero"),
        ("learning_rate", math.nan, "more than zero"),
        ("width", 2.5, "must be like 16"),
        ("seed", True, "must be like 0"),
        ("mixed_precision", 1, "must be like True"),
        ("level_shares", (0.5, 0.6, 0.5), "sum to 1"),
        ("level_shares", (1.5, -0.5, 0), "zero or more"),
        ("iterations", (0.3, 0.5, 0.2), "needs 2 numbers"),
        ("burn_in", 2, "no training setting 'burn_in'"),
        ("iterations", (8, 4), "fewest, then the most"),
        ("variant", "other", "no variant 'other': use l2o, falta2022"),
    ],
)
def test_values_that_make_no_sense_are_refused(field, value, told):
    with pytest.raises(InputError, match=told):
        read_config(None, **{field: value})


@pytest.mark.parametrize(
    ("variant", "field", "value", "told"),
    [
        ("l2o", "crop", 16, "does nothing to l2o, it is for falta2022: leave it out"),
        ("l2o", "iterations", (4, 4), "does nothing to l2o"),
        ("l2o", "coarse", True, "for voxelmorph[+][+] and falta2022"),
        ("falta2022", "width", 24, "does nothing to falta2022"),
        ("voxelmorph++", "diffeomorphic", True, "is for lapirn"),
        ("lapirn", "keypoints", 5, "does nothing to lapirn"),
        ("lapirn", "iterations", (4, 4), "predicts the motion at once"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(variant, field, value, told):
    with pytest.raises(InputError, match=told):
        read_config(None, variant=variant, **{field: value})
    as_usual = {field: getattr(TrainingConfig(), field)}
    assert read_config(None, variant=variant, **as_usual) == TrainingConfig(variant=variant)


def test_what_may_change_when_a_run_is_continued():
    config = TrainingConfig(steps=10, checkpoint_every=5)
    made_with = asdict(TrainingConfig())
    assert changed(config, made_with) is None
    assert changed(config, made_with | {"seed": 1}) == "seed"
    del made_with["begin_with"]  # a checkpoint from before there was such a field
    assert changed(config, made_with) == "begin_with"


def test_a_run_goes_on_without_a_setting_that_did_nothing():
    """Earlier versions took it; it is refused now, and need not be repeated."""
    made_with = asdict(TrainingConfig()) | {"keypoints": 5, "iterations": (4, 4)}
    assert changed(TrainingConfig(), made_with) is None
    assert changed(TrainingConfig("falta2022"), made_with | {"variant": "falta2022"}) == "keypoints"


def test_files_and_checkpoints_of_earlier_versions_are_still_read(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text('variant = "paper"\nshort = 2\n')
    config = read_config(path)
    assert (config.variant, config.short_steps) == ("falta2022", 2)
    assert read_config("pyramid") == read_config("l2o")
    assert read_config("paper-cpu") == read_config("falta2022-cpu")

    settings = asdict(read_config(None))
    settings |= {"variant": "trust", "short": settings.pop("short_steps"), "burn_in": 0}
    assert changed(TrainingConfig(), renamed(settings)) is None


def test_groups_of_channels_need_a_width_they_divide():
    with pytest.raises(InputError, match="multiple of 8"):
        read_config("l2o", width=20)
