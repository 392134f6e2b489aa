"""Phantom pairs for training: drawn by several processes as by one, and only what is missing."""

import os
import signal

import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.training import phantoms  # noqa: E402
from L2ORegistrationLib.training.prepared import PreparedPair  # noqa: E402


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def there(tmp_path):
    """Four patients' pairs, twelve, all there."""
    paths = [tmp_path / f"phantom-0-{i:04d}.pt" for i in range(12)]
    for path in paths:
        path.write_bytes(b"drawn before")
    return paths


def test_what_is_there_is_kept_and_told_of(there, tmp_path):
    told = []
    assert phantoms.phantom_pairs(tmp_path, 12, on_pair=told.append) == there
    assert told == there and all(path.read_bytes() == b"drawn before" for path in there)


def killed(paths, first):
    """As the system does it where the memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no process is killed so here")
def test_a_process_that_is_killed_is_told_with_what_to_do(tmp_path, two_threads):
    missing = [[tmp_path / "a.pt"], [tmp_path / "b.pt"]]
    with pytest.raises(InputError, match="memory ran out.*fewer --threads"):
        list(phantoms._drawn(killed, missing, range(2)))


def test_no_more_processes_draw_than_the_memory_carries(tmp_path, two_threads, monkeypatch):
    missing = [[tmp_path / "a.pt"], [tmp_path / "b.pt"]]
    monkeypatch.setattr(phantoms, "free_mb", lambda: 2 * phantoms.MEMORY_MB - 1)
    drawn = phantoms._drawn(lambda paths, first: [os.getpid()], missing, range(2))
    assert list(drawn) == [[os.getpid()]] * 2


@pytest.mark.slow
def test_several_processes_draw_what_one_draws_and_only_what_is_missing(there, tmp_path):
    alone = {}
    threads = torch.get_num_threads()
    for count in (1, 2):
        told = []
        for i in (4, 10):
            there[i].unlink()
        torch.set_num_threads(count)
        try:
            phantoms.phantom_pairs(tmp_path, 12, on_pair=told.append)
        finally:
            torch.set_num_threads(threads)
        assert sorted(told) == there and there[5].read_bytes() == b"drawn before"
        for i in (4, 10):
            drawn = PreparedPair.load(there[i])
            known = alone.setdefault(i, drawn)
            assert torch.equal(known.points, drawn.points) and len(drawn.points) > 1000
            assert torch.equal(known.targets, drawn.targets)
