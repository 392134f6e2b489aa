"""All that a registration does on a GPU stays on it, is single precision and exists for GPUs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.utils import backend_registration  # noqa: E402

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch knows no devices made of Python", allow_module_level=True)

from L2ORegistrationLib.engine import devices, selfcheck  # noqa: E402
from L2ORegistrationLib.engine.catalogue import METHODS  # noqa: E402
from L2ORegistrationLib.engine.field import sampling  # noqa: E402
from L2ORegistrationLib.engine.registration import register  # noqa: E402
from pretended_gpu import NAME, lacking, pretended_gpu  # noqa: E402


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setitem(sampling._CHUNK, NAME.partition(":")[0], sampling._CHUNK["cuda"])
    monkeypatch.setattr(devices, "_names", lambda: [NAME, "cpu"])
    monkeypatch.setattr(selfcheck, "_passed", set())
    return pretended_gpu()


def exist(asked):
    """Torch's own table names the operations that CUDA and Apple's GPUs have."""
    assert len(asked) > 50
    assert lacking(asked, "CUDA") == [] and lacking(asked, "MPS") == []


def test_it_is_checked_and_passes(gpu):
    with gpu as asked:
        assert selfcheck.problem(NAME) is None
        assert devices.choose_device("auto") == torch.device(NAME)
    exist(asked)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["l2o", "falta2022", "voxelmorph++", "lapirn"])
def test_a_registration_ends_where_the_cpus_does(pair, gpu, monkeypatch, method):
    monkeypatch.setattr(devices, "problem", lambda name: None)
    predicts = METHODS[method].stages[-1].closing
    # Without Adam after it, whose gradients torch computes only on devices that it began with.
    how = {"method": method, "spacing": 4.0, "refine": False, "iterations": None if predicts else 1}
    expected = register(pair.fixed, pair.moving, device="cpu", **how)
    with gpu as asked:
        found = register(pair.fixed, pair.moving, device=NAME, **how)
    assert found.provenance["device"] == NAME
    ends = [each.field.transform_points(pair.fixed_landmarks) for each in (found, expected)]
    assert np.abs(ends[0] - ends[1]).max() < 0.01
    exist(asked)


def test_what_a_gpu_refuses_is_refused(gpu):
    with gpu:
        there = torch.ones(3).to(NAME)
        with pytest.raises(RuntimeError, match="on pretended:0 and on the CPU"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="double precision"):
            there.double()
        with pytest.raises(TypeError):
            there.numpy()
        assert (there[[0, 2]] + 1).cpu().tolist() == [2.0, 2.0]
    assert lacking({"_fft_r2c"}, "MPS") == [] and lacking({"geqrf"}, "MPS") == ["geqrf"]
