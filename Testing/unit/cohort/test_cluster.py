"""Workers and schedulers: which GPU a worker sees, and what is said where nobody works."""

import asyncio
import os

import pytest

distributed = pytest.importorskip("distributed")

from L2ORegistrationLib.cohort.cluster import existing_client, local_client  # noqa: E402
from L2ORegistrationLib.core.errors import InputError  # noqa: E402


def seen_by_workers(count, gpus):
    """CUDA_VISIBLE_DEVICES of each worker of a local cluster, sorted."""
    with local_client(count, 1, gpus=gpus) as client:
        found = client.run(lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
    return sorted(found.values())


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("2,3", ["2", "3"]),
        ("3, GPU-8932f937", ["3", "GPU-8932f937"]),
        ("MIG-GPU-5f1/1/0,MIG-7d3c", ["MIG-7d3c", "MIG-GPU-5f1/1/0"]),
        (None, ["0", "1"]),
    ],
)
def test_workers_see_only_the_gpus_that_this_process_was_given(monkeypatch, given, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert seen_by_workers(2, gpus=[0, 1]) == seen


def test_workers_without_gpus_of_their_own_see_those_of_this_process(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert seen_by_workers(1, gpus=[]) == ["2,3"]


def test_a_gpu_beyond_those_given_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(InputError, match="no cuda:2 .* '2,3'"), local_client(1, 1, gpus=[2]):
        pass


def test_a_scheduler_without_workers_is_a_sentence():
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"host": "127.0.0.1", "port": 0, "dashboard": False},
    }
    with distributed.SpecCluster(workers={}, scheduler=scheduler) as cluster:
        address = cluster.scheduler_address
        with (
            pytest.raises(InputError, match="has no workers: start some with 'dask worker"),
            existing_client(address, timeout=0.5),
        ):
            pass


@pytest.mark.parametrize("silent", ["connecting", "waiting"])
def test_the_timeout_of_python_3_10_is_a_sentence_as_well(monkeypatch, silent):
    class Timeout(Exception):
        """asyncio's own, which was not the builtin TimeoutError then."""

    class Client:
        def __init__(self, address, timeout):
            if silent == "connecting":
                raise type("OfDask", (Timeout,), {})

        def wait_for_workers(self, count, timeout):
            raise type("OfDask", (Timeout,), {})

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(asyncio, "TimeoutError", Timeout)
    monkeypatch.setattr(distributed, "Client", Client)
    with (
        pytest.raises(InputError, match="start (some|one) with"),
        existing_client("tcp://127.0.0.1:9"),
    ):
        pass
