"""A device is used only where it computes what the CPU does."""

import json
import traceback

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.commands import listing  # noqa: E402
from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.engine import devices, selfcheck  # noqa: E402
from L2ORegistrationLib.engine.registration import register  # noqa: E402
from L2ORegistrationLib.phantom.pair import make_pair  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

GPUS = [name for name, _, _ in devices.available_devices() if name != "cpu"]


@pytest.fixture
def fake(monkeypatch):
    """A GPU called "meta", torch's device without memory, and none that has passed before."""
    found = [("meta", "A GPU", 8000), ("cpu", "CPU", None)]
    monkeypatch.setattr(devices, "available_devices", lambda: found)
    monkeypatch.setattr(devices, "_names", lambda: ["meta", "cpu"])
    monkeypatch.setattr(selfcheck, "_passed", set())


def parts_like_the_cpu(monkeypatch, change):
    """What the fake GPU computes is change(what the CPU computes)."""
    parts = selfcheck._parts

    def changed(device):
        values = parts("cpu")
        return values if device == "cpu" else map(change, values)

    monkeypatch.setattr(selfcheck, "_parts", changed)


def test_a_device_without_an_operation_is_passed_over(fake):
    assert devices.choose_device("auto") == torch.device("cpu")
    with pytest.raises(InputError, match="'meta' cannot run a registration .*: choose cpu"):
        devices.choose_device("meta")


@pytest.mark.parametrize("change", [lambda v: 1.03 * v, lambda v: v * torch.nan, lambda v: -v])
def test_a_device_with_other_numbers_is_passed_over(fake, monkeypatch, change):
    parts_like_the_cpu(monkeypatch, change)
    assert selfcheck.problem("meta") == "it computes other numbers than the CPU"
    assert devices.choose_device("auto") == torch.device("cpu")


class NoDoubles(TorchDispatchMode):
    """A device without double precision, as Apple's GPUs are, but for what is meant for the CPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64 and found.numel() > 1:
            where = {frame.name for frame in traceback.extract_stack()}
            if not where & ON_THE_CPU:
                raise TypeError(f"{function} makes double precision")
        return found


ON_THE_CPU = {"_cosines", "evidence"}  # these say so, and why


def test_nothing_needs_double_precision_but_on_the_cpu():
    """Also not the measures of the result, which come when all the work is done."""
    with NoDoubles(), torch.inference_mode():
        values = list(selfcheck._parts("cpu"))
    assert len(values) > 10


def test_a_gpu_that_is_full_is_no_obstacle(monkeypatch):
    def full(_device):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "A GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", full)
    assert devices.choose_device("cpu") == torch.device("cpu")
    assert devices.available_devices()[0] == ("cuda:0", "A GPU", None)
    monkeypatch.setattr(devices, "problem", lambda name: "full" if name == "cuda:0" else None)
    assert devices.choose_device("auto") == torch.device("cpu")
    devices.check_memory(torch.device("cuda:0"), 10)  # nobody says how much is free


def test_a_device_that_rounds_differently_is_used_and_not_tried_again(fake, monkeypatch):
    parts_like_the_cpu(monkeypatch, lambda v: v * (1 + 1e-3 * torch.sin(1e3 * v)))
    assert devices.choose_device("auto") == torch.device("meta")
    monkeypatch.setattr(selfcheck, "_parts", None)
    assert selfcheck.problem("meta") is None


def test_the_list_of_devices_says_why(fake, capsys):
    listing.devices(as_json=True)
    gpu, cpu = json.loads(capsys.readouterr().out)["devices"]
    assert gpu["description"].startswith("unusable: ") and cpu["description"] == "CPU"


def test_every_part_is_more_than_zero():
    """A part that were zero everywhere would check nothing."""
    with torch.inference_mode():
        assert all(value.abs().max() > 1e-6 for value in selfcheck._parts("cpu"))


def test_it_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    list(selfcheck._parts("cpu"))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.gpu
@pytest.mark.skipif(not GPUS, reason="there is no GPU")
@pytest.mark.parametrize("name", GPUS)
def test_gpus_that_are_here_compute_what_the_cpu_does(name):
    assert selfcheck.problem(name) is None


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not GPUS, reason="there is no GPU")
@pytest.mark.parametrize("name", GPUS)
def test_a_registration_on_a_gpu_ends_where_the_cpus_does(name):
    pair = make_pair(3, spacing=4.0, amplitude_mm=20.0)
    masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
    ends = [
        register(pair.fixed, pair.moving, device=device, spacing=3.0, **masks).field
        for device in ("cpu", name)
    ]
    there, here = (end.transform_points(pair.fixed_landmarks) for end in ends)
    assert np.linalg.norm(there - here, axis=1).mean() < 0.2
