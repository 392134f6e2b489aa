"""The paper's Table 1: its columns and numbers, what is not trained, the command that runs it."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib import cli  # noqa: E402
from L2ORegistrationLib.benchmark import methods, table1  # noqa: E402
from L2ORegistrationLib.benchmark.run import Measurement  # noqa: E402
from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.engine import packaged  # noqa: E402
from L2ORegistrationLib.engine.models import export_model  # noqa: E402
from L2ORegistrationLib.engine.optimise.lapirn import LapIRN  # noqa: E402
from L2ORegistrationLib.engine.optimise.networks import Falta2022Network  # noqa: E402
from L2ORegistrationLib.engine.optimise.voxelmorph import VoxelMorph  # noqa: E402
from test_benchmark import SHIFT, bodies, result  # noqa: E402

CARD = {"version": "1", "licence": "Apache-2.0", "trained_iterations": (1, 1)}


@pytest.fixture
def nothing_packaged(tmp_path, monkeypatch):
    (tmp_path / "none").mkdir()
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "none")


@pytest.fixture
def weights(tmp_path, nothing_packaged):
    """Weights of VM++ that one hour has trained, and none of the others."""
    torch.manual_seed(0)  # untrained weights are drawn, and some of them change more than others
    facts = {"data": "phantoms (3) pairs", "steps": 40, "hours": 1.5, "device": "cpu"}
    (tmp_path / "weights").mkdir()
    path = tmp_path / "weights" / "voxelmorph++.pt"
    export_model(VoxelMorph(), path, iterations=(1,), facts=facts, **CARD)
    return tmp_path / "weights"


def rows(text, block):
    """The cells of a block of the table by row."""
    lines = text.split(f"| {block} |")[1].split("\n\n")[0].splitlines()[2:]
    return {line.split("|")[1].strip(): line.split("|")[2:-1] for line in lines}


def test_every_column_is_a_row_of_the_benchmark():
    assert set(table1.COLUMNS.values()) <= set(methods.METHODS)
    assert all(len(numbers) == len(table1.COLUMNS) for numbers in table1.PAPER.values())


def test_without_weights_only_what_needs_none_is_run(nothing_packaged):
    assert table1.trained({}) == ["initial", "instance-affine"]


def test_own_weights_are_found_by_name(weights, tmp_path):
    own = table1.weights_in(weights)
    assert list(own) == ["voxelmorph++"]
    known = table1.trained(own)
    assert known == ["initial", "voxelmorph++-network", "instance-affine", "instance-voxelmorph++"]
    with pytest.raises(InputError, match=r"holds none of .*lapirn.pt.*check --weights"):
        table1.weights_in(tmp_path / "none")


def test_weights_of_another_network_are_refused(weights, tmp_path, capsys):
    (weights / "voxelmorph++.pt").rename(weights / "lapirn.pt")
    (weights / "voxelmorph++.json").rename(weights / "lapirn.json")
    bodies(tmp_path / "data/pair")
    command = ["benchmark", "--table1", "--data", f"pairs={tmp_path / 'data'}"]
    command += ["--weights", str(weights), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 2 and not (tmp_path / "out").exists()
    assert "belong to the method voxelmorph++, not to lapirn" in capsys.readouterr().err


def test_what_is_not_trained_is_said_and_the_papers_numbers_stand_beneath(weights):
    own = table1.weights_in(weights)
    runs = [
        Measurement("DIR-Lab 4DCT", "1", "initial", "landmarks", result([4.0, 8.0])),
        Measurement("DIR-Lab 4DCT", "2", "initial", "landmarks", result([7.0, 7.0])),
        Measurement("DIR-Lab 4DCT", "1", "voxelmorph++-network", "landmarks", result([2.0, 3.0])),
        Measurement(
            "DIR-Lab 4DCT", "2", "voxelmorph++-network", "landmarks", {"error": "no lungs"}
        ),
        Measurement("DIR-Lab 4DCT", "1", "instance-affine", "landmarks", {"error": "no lungs"}),
        Measurement("mine", "1", "initial", "landmarks", result([5.0])),
    ]
    text = table1.markdown(runs, own)
    found = {name: [c.strip() for c in cells] for name, cells in rows(text, "TRE, mm").items()}
    assert list(found) == ["DIR-Lab 4DCT", "*the paper*", "mine"]
    names = dict(zip(table1.COLUMNS, found["DIR-Lab 4DCT"], strict=True))
    assert names["Initial"] == "6.50" and names["VM++"] == "2.50 (1 failed)"
    assert names["LapIRN w/o Adam"] == names["L2O w. Pre-Reg"] == "not trained"
    assert names["Adam w/o Pre-Reg"] == "failed"
    paper = dict(zip(table1.COLUMNS, found["*the paper*"], strict=True))
    assert (paper["LapIRN w. Adam"], paper["L2O w/o Pre-Reg"]) == ("1.60", "2.01")
    assert "*the paper*" not in rows(text, "SDlogJ")
    assert "weights voxelmorph++ 1; phantoms (3) pairs, 40 steps, 1.5 hours, cpu" in text
    assert "- LapIRN: not trained" in text and "- Falta 2022: not trained" in text


@pytest.mark.slow
def test_one_command_runs_what_is_trained(weights, tmp_path, capsys):
    """The untrained networks change next to nothing, but every column has its numbers."""
    export_model(LapIRN(), weights / "lapirn.pt", iterations=(1,), **CARD)
    export_model(Falta2022Network(), weights / "falta2022.pt", iterations=(1,), **CARD)
    bodies(tmp_path / "data" / "pair")
    command = ["benchmark", "--table1", "--data", f"pairs={tmp_path / 'data'}", "--threads", "1"]
    command += ["--weights", str(weights), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    text = (tmp_path / "out/table1.md").read_text(encoding="utf-8")
    assert "not trained" not in text and text in capsys.readouterr().out
    for block in ("TRE, mm", "SDlogJ"):
        (cells,) = (cells for name, cells in rows(text, block).items() if "paper" not in name)
        found = dict(zip(table1.COLUMNS, map(float, cells), strict=True))
        assert np.isfinite(list(found.values())).all()
        if block == "TRE, mm":
            assert found["Initial"] == pytest.approx(np.linalg.norm(SHIFT), abs=0.01)
            assert found["Adam w/o Pre-Reg"] < 1 and found["Adam w. Pre-Reg"] < 1
            assert found["VM++"] < found["Initial"] + 0.5
    assert (tmp_path / "out/table1.png").stat().st_size > 5000


def test_a_network_alone_ends_without_adam(weights, tmp_path, monkeypatch):
    from L2ORegistrationLib.benchmark import measure
    from test_benchmark import scanned

    monkeypatch.setattr("L2ORegistrationLib.engine.optimise.voxelmorph.POINTS", 32)
    scan = scanned(tmp_path)
    own = table1.weights_in(weights)
    options = {"threads": 1, "weights": own, "device": "cpu"}
    found = measure.measure(scan, "voxelmorph++-network", options, 0.0)
    assert [s["stage"] for s in found["steps"]] == ["initial", "start", "voxelmorph++"]
    assert np.isfinite(found["tre"]).all()
