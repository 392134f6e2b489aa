"""The log has each step once, whatever interrupted it, and TensorBoard reads the same numbers."""

import math
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.engine.models import export_model
from L2ORegistrationLib.engine.optimise.networks import L2ONetwork
from L2ORegistrationLib.training import card, log
from L2ORegistrationLib.training.config import TrainingConfig
from L2ORegistrationLib.training.log import TrainingLog, read_log, recent_errors
from L2ORegistrationLib.training.loop import Rollout, save_checkpoint
from L2ORegistrationLib.training.run import CHECKPOINT, check, export, run
from L2ORegistrationLib.training.workers import Workers
from training_pairs import CONFIG

NUMBERS = ("step", "level", "error_before_mm", "error_after_mm", "loss", "learning_rate")


def rollouts(*steps):
    return [Rollout(s, s % 2, 3.0 + s, 1 / s, 0.1 * s, 1e-3 / 3, float(s)) for s in steps]


def write(folder, step, found):
    with TrainingLog(folder, step) as notes:
        for progress in found:
            notes.add(progress)


def scalars(folder, tag):
    """{step: values} of a tag, as TensorBoard shows it."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder / log.EVENTS))
    events.Reload()
    found = {}
    for event in events.Scalars(tag):
        found.setdefault(event.step, []).append(event.value)
    return found


def test_numbers_come_back_exactly(tmp_path):
    write(tmp_path, 0, rollouts(1, 2))
    rows = read_log(tmp_path / log.FILE)
    assert [tuple(row.values()) for row in rows] == [
        (1, 1, 4.0, 1.0, 0.1, 1e-3 / 3, 1.0),
        (2, 0, 5.0, 0.5, 0.2, 1e-3 / 3, 2.0),
    ]


def test_steps_beyond_the_checkpoint_are_dropped_and_done_again(tmp_path):
    write(tmp_path, 0, rollouts(1, 2, 2, 3))
    with open(tmp_path / log.FILE, "a", encoding="utf-8") as file:
        file.write("4,0,5.0")  # killed within a line
    write(tmp_path, 2, rollouts(3, 4))
    assert [row["step"] for row in read_log(tmp_path / log.FILE)] == [1, 2, 2, 3, 4]
    write(tmp_path, 0, rollouts(1))
    assert [row["step"] for row in read_log(tmp_path / log.FILE)] == [1]


def test_a_full_disk_is_told_and_what_was_noted_stays(tmp_path, room_for, monkeypatch):
    monkeypatch.setattr(log, "_event_writer", lambda *_: None)
    write(tmp_path, 0, rollouts(1))
    with pytest.raises(InputError, match="log.csv could not be written .* goes on from the last"):
        with room_for(200):
            write(tmp_path, 1, rollouts(2, 3, 4))
    rows = read_log(tmp_path / log.FILE)
    assert [row["step"] for row in rows][:2] == [1, 2] and len(rows) < 4
    write(tmp_path, 1, rollouts(2, 3))
    assert [row["step"] for row in read_log(tmp_path / log.FILE)] == [1, 2, 3]


def test_tensorboard_shows_each_step_once(tmp_path):
    write(tmp_path, 0, rollouts(1, 2, 3))
    write(tmp_path, 2, [replace(p, loss=9.0) for p in rollouts(3, 4)])
    assert scalars(tmp_path, "loss") == {
        1: [pytest.approx(0.1)], 2: [pytest.approx(0.2)], 3: [9], 4: [9],
    }  # fmt: skip
    assert list(scalars(tmp_path, "error_after_mm/level_1")) == [1, 3]
    assert scalars(tmp_path, "learning_rate")[1] == [pytest.approx(1e-3 / 3)]


def test_without_tensorboard_there_is_the_csv(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    write(tmp_path, 0, rollouts(1))
    assert [path.name for path in tmp_path.iterdir()] == [log.FILE]


def test_recent_errors_are_those_that_are_known(tmp_path):
    assert recent_errors([]) == {}
    unknown = replace(rollouts(3)[0], before=math.nan, after=math.nan)
    write(tmp_path, 0, [*rollouts(1, 2), unknown])
    rows = read_log(tmp_path / log.FILE)
    assert recent_errors(rows) == {"before": 4.5, "after": 0.75}
    assert recent_errors(rows[-1:]) == {}


def test_an_interrupted_run_has_the_log_and_card_of_a_whole_one(pairs, tmp_path):
    config = replace(CONFIG, checkpoint_every=2)
    data = {"set": pairs[:1], card.PHANTOMS: pairs[1:]}
    for name, stops in (("whole", ()), ("parts", (1, 3))):
        folder = tmp_path / name
        folder.mkdir()
        for stop in (*stops, 99):  # stopped before the first checkpoint and after it
            for progress in run(folder, data, config, "cpu", Workers()):
                if progress.step == stop:
                    break
    logs = [read_log(tmp_path / name / log.FILE) for name in ("whole", "parts")]
    first, second = ([[str(row[n]) for n in NUMBERS] for row in rows] for rows in logs)
    assert first == second and len(first) == config.steps * config.accumulate
    assert list(scalars(tmp_path / "parts", "loss")) == [1, 2, 3]
    seconds = [row["seconds"] for row in logs[1]]
    assert seconds == sorted(seconds)

    cards = [
        export(tmp_path / name, "mine", data, config, "cpu, float32") for name in ("whole", "parts")
    ]
    assert cards[0].facts["errors_mm"] == cards[1].facts["errors_mm"] != {}
    assert cards[1].facts["hours"] == round(seconds[-1] / 3600, 3)
    assert cards[0].facts["data"] == "set (1), breathing phantoms (1) pairs"
    assert cards[0].licence == "not stated; mind the terms of the data"
    with pytest.raises(InputError, match=r"trained on other data \(set: 1 pairs, breathing"):
        list(run(tmp_path / "parts", {"set": pairs}, config, "cpu", Workers()))


def test_a_run_goes_on_exactly_whatever_the_order_of_its_data(pairs, tmp_path):
    data = {"b": pairs[1:], "a": pairs[:1]}
    turned = dict(reversed(data.items()))
    config = replace(CONFIG, checkpoint_every=1, steps=4, short_steps=4)
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = [str(p.loss) for p in run(tmp_path / "whole", data, config, "cpu", Workers())]
    parts = []
    for progress in run(tmp_path / "parts", data, config, "cpu", Workers()):
        if progress.step == 2:
            break
        parts.append(str(progress.loss))
    parts += [str(p.loss) for p in run(tmp_path / "parts", turned, config, "cpu", Workers())]
    assert parts == whole


def test_phantoms_alone_are_free_and_a_chosen_licence_counts(pairs, tmp_path):
    config, data = replace(CONFIG, steps=1), {card.PHANTOMS: pairs}
    list(run(tmp_path, data, config, "cpu", Workers()))
    assert export(tmp_path, "a", data, config, "cpu").licence == "Apache-2.0"
    assert export(tmp_path, "b", data, config, "cpu", "CC0-1.0").licence == "CC0-1.0"
    begun = replace(config, begin_with=str(tmp_path / "b.pt"))
    assert export(tmp_path, "c", data, begun, "cpu").licence.startswith("not stated")


def test_weights_of_several_networks_are_exported_as_such(tmp_path):
    """Unless other weights stand now where those stood that it has begun with."""
    known = {"version": "1", "licence": "none", "iterations": 2, "trained_iterations": (2, 2)}
    network, config = (
        L2ONetwork(8, (1, 1, 2)),
        TrainingConfig(width=8, begin_with=str(tmp_path / "b.pt")),
    )
    export_model(network, tmp_path / "b.pt", **known)
    optimiser = torch.optim.Adam(network.parameters())
    save_checkpoint(tmp_path / CHECKPOINT, network, optimiser, 5, config, 1.0, {})
    assert export(tmp_path, "a", {}, config, "cpu").ensemble == (1, 1, 2)
    export_model(L2ONetwork(8), tmp_path / "b.pt", **known)
    with pytest.raises(InputError, match="of a network made otherwise"):
        export(tmp_path, "a", {}, config, "cpu")


def test_another_number_of_phantoms_is_refused_before_they_are_drawn(pairs, tmp_path):
    config, data = replace(CONFIG, steps=1), {card.PHANTOMS: pairs}
    list(run(tmp_path, data, config, "cpu", Workers()))
    check(tmp_path, config, len(pairs))
    with pytest.raises(InputError, match="trained on other data"):
        check(tmp_path, config, len(pairs) + 1)


def test_a_start_model_of_another_network_is_refused_before_anything_is_prepared(tmp_path):
    with pytest.raises(InputError, match="not of voxelmorph"):
        check(tmp_path, replace(CONFIG, variant="falta2022", start_model="l2o"), 0)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_known_where_git_knows_the_file(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    file, stray = tmp_path / "card.py", tmp_path / "installed.py"
    file.write_text("")
    assert card.commit(file) == "unknown"  # no repository
    git("init")
    git("add", "card.py")
    git("commit", "-m", "One")
    stray.write_text("")
    assert card.commit(file) == git("rev-parse", "HEAD")
    assert card.commit(stray) == "unknown"  # in a repository that is not its own
    file.write_text("changed")
    assert card.commit(file) == git("rev-parse", "HEAD") + "-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert card.commit(file) == "unknown"
