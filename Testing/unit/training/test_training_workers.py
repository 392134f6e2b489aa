"""Processes that torchrun starts train as one: the same weights everywhere, the same as alone."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.training.loop import train
from L2ORegistrationLib.training.workers import Workers, device_of
from training_pairs import CONFIG

HERE = Path(__file__).parent
LIBRARY = HERE.parents[2] / "L2ORegistration"

# Each process keeps its network, which only the first would write, and what it was told.
SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from L2ORegistrationLib.training import loop
from L2ORegistrationLib.training.workers import device_of, joined
from training_pairs import CONFIG

folder, pairs = Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]]
made, new = [], loop.new_network
loop.new_network = lambda config: made.append(new(config)) or made[-1]
with joined() as workers:
    told = workers.shared(lambda: f"process {workers.rank}")
    joined_up = workers.joined({(workers.rank, 0): torch.full((2,), workers.rank)})
    config = replace(CONFIG, accumulate=2 // workers.count, checkpoint_every=2)
    found = list(loop.train(pairs, folder / "run.pt", config, "cpu", workers))
    state = made[0].state_dict()
    rows = [(p.step, p.level, p.before, p.after, p.loss) for p in found]
    name = f"{workers.rank}-of-{workers.count}.pt"
    torch.save({"told": told, "rows": rows, "state": state, "joined": joined_up}, folder / name)
    device_of("auto", workers)
"""


def torchrun(count, folder, pairs):
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": f"{LIBRARY}{os.pathsep}{HERE}"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), script, folder, *pairs]
    done = subprocess.run(map(str, command), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = [f"{rank}-of-{count}.pt" for rank in range(count)]
    return [torch.load(folder / name, weights_only=True) for name in names]


@pytest.fixture(autouse=True)
def one_thread():
    """As torchrun's processes have: sums differ in the last digit, which Adam magnifies."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
def test_two_processes_are_as_one_with_twice_the_crops(pairs, tmp_path):
    first, second = torchrun(2, tmp_path, pairs)
    assert first["told"] == second["told"] == "process 0"
    assert {k: v.tolist() for k, v in first["joined"].items()} == {(0, 0): [0, 0], (1, 0): [1, 1]}
    assert set(second["joined"]) == {(1, 0)}
    assert str(first["rows"]) == str(second["rows"])  # as text, for crops without keypoints are NaN
    assert len({row[2:] for row in first["rows"]}) == 6  # every rollout is another
    written = torch.load(tmp_path / "run.pt", weights_only=True)["network"]
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
        assert torch.equal(value, written[name]), name

    alone = list(train(pairs, tmp_path / "alone.pt", replace(CONFIG, accumulate=2)))
    assert len(alone) == 6
    for (step, level, *numbers), p in zip(first["rows"], alone):
        assert (step, level) == (p.step, p.level)
        assert numbers == pytest.approx([p.before, p.after, p.loss], rel=1e-4, nan_ok=True)
    state = torch.load(tmp_path / "alone.pt", weights_only=True)["network"]
    for name, value in first["state"].items():
        torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
def test_one_process_of_torchrun_is_as_none(pairs, tmp_path):
    (only,) = torchrun(1, tmp_path, pairs)
    list(train(pairs, tmp_path / "alone.pt", replace(CONFIG, accumulate=2, checkpoint_every=2)))
    state = torch.load(tmp_path / "alone.pt", weights_only=True)["network"]
    assert all(torch.equal(value, state[name]) for name, value in only["state"].items())


def test_a_process_alone_shares_with_nobody():
    workers = Workers()
    assert workers.first and workers.shared(lambda: 3) == 3
    assert workers.gathered([(1.0,)]) == [(1.0,)]
    assert workers.joined({1: "a"}) == {1: "a"}


def test_devices_of_several_processes(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")  # the one that tells it
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "99")
    two = Workers(1, 2)
    assert str(device_of("cpu", two)) == "cpu"
    with pytest.raises(InputError, match="cpu or cuda, not on 'mps'"):
        device_of("mps", two)
    with pytest.raises(InputError, match="Each process needs a GPU of its own"):
        device_of("cuda", two)
