"""The recipes of CONTRIBUTING.md, followed from outside: one entry, and everything knows it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

LIBRARY = Path(__file__).parents[2] / "L2ORegistration"

TOY = '''
import sys
import numpy as np
import SimpleITK as sitk
from L2ORegistrationLib.core.files import write_volume
from L2ORegistrationLib.core.geometry import Volume
from L2ORegistrationLib.datasets import registry as datasets
from L2ORegistrationLib.engine import catalogue
from L2ORegistrationLib.engine.catalogue import Method, Stage
from L2ORegistrationLib.outputs.registry import Output, register_output
from L2ORegistrationLib.phantom.pair import make_pair

class Shift:
    """Moves everything by `mm` along x in each iteration."""
    def __init__(self, mm):
        self.mm = mm
    def iterate(self, level, field, iterations):
        for _ in range(iterations):
            field = field.clone()
            field[0] += self.mm
            yield field, 0.0

def own_mind(pyramid, field):
    return pyramid.mind_level(4)

def main():
    catalogue.DESCRIPTORS["own"] = "toy:own_mind"
    stage = Stage("shift", 0, "own", "toy:Shift", 3, {"mm": 2.0})
    catalogue.register_method("toy", Method("Toy", "#000000", (stage,)))
    length = lambda r: Volume(np.linalg.norm(r.field.array, axis=-1), r.field.grid)
    register_output("length", Output("length of the motion, mm", length))
    datasets.DATASETS["toys"] = datasets.Dataset("Toys", lambda folder: [], "the toy shop")

    from L2ORegistrationLib import cli, register
    from L2ORegistrationLib.benchmark import figure, methods

    assert methods.chosen(["toy"], False) == ["toy-affine", "toy-search"]
    assert figure._style("toy-search") == ("#000000", "-")
    assert "toys" in datasets.DATASETS
    pair = make_pair(3, spacing=6.0, amplitude_mm=10.0)
    for name in ("fixed", "moving", "fixed_mask", "moving_mask"):
        write_volume(getattr(pair, name), f"{name}.nii.gz")
    steps = register(pair.fixed, pair.moving, fixed_mask=pair.fixed_mask, start="none",
                     moving_mask=pair.moving_mask, method="toy", spacing=3.0, device="cpu").steps
    assert [step.stage for step in steps] == ["initial", "start"] + 3 * ["shift"]
    motion = steps[-1].field.sample(pair.fixed_landmarks)
    np.testing.assert_allclose(motion, np.broadcast_to([6, 0, 0], motion.shape), atol=1e-3)
    code = cli.main(["register", "fixed.nii.gz", "moving.nii.gz", "-o", "t.h5", "--method", "toy",
        "--fixed-mask", "fixed_mask.nii.gz", "--moving-mask", "moving_mask.nii.gz", "--quiet",
        "--start", "none", "--spacing", "3", "--device", "cpu", "--image", "length=length.nrrd"])
    assert code == 0
    moved = sitk.ReadTransform("t.h5").TransformPoint((0.0, 0.0, 0.0))
    length = sitk.GetArrayFromImage(sitk.ReadImage("length.nrrd"))
    np.testing.assert_allclose(length, np.linalg.norm(moved), atol=1e-3)
    assert cli.main(["register", "a", "b", "-o", "t.h5", "--image", "depth=d.nrrd"]) == 2
'''


@pytest.mark.slow
def test_a_method_a_descriptor_a_data_set_and_an_output_from_outside(tmp_path):
    (tmp_path / "toy.py").write_text(TOY, encoding="utf-8")
    paths = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(LIBRARY)!r}]; "
    done = subprocess.run(
        [sys.executable, "-c", paths + "import toy; toy.main()"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "length.nrrd").exists() and (tmp_path / "t.h5").exists()
