"""A job runs elsewhere, hands over every step in order, stops when told and never raises."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from L2ORegistrationLib import job as job_module
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.job import Failed, Finished, RegistrationJob


class Counting:
    """Yields `total` steps; before each it waits for the gate, where there is one."""

    def __init__(self, total=5, gate=None, fail=None, cancelled=None):
        self.total, self.gate, self.fail = total, gate, fail
        self.done = 0
        self.thread = threading.current_thread()

    def __iter__(self):
        for index in range(self.total):
            if self.gate:
                self.gate.acquire()
            if self.fail and index == 2:
                raise self.fail
            self.done = index + 1
            yield SimpleNamespace(index=index, total=self.total - 1)

    def result(self):
        return self


def drain(job, timeout=10):
    events = []
    until = time.monotonic() + timeout
    while job.active:
        assert time.monotonic() < until, "the job does not end"
        events += job.poll()
        time.sleep(0.002)
    return events


def test_steps_come_in_order_and_then_the_result():
    job = RegistrationJob(Counting, total=4, after=lambda result: result.done * 10)
    *steps, last = drain(job)
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert isinstance(last, Finished)
    assert last.result.done == 4 and last.extra == 40 and not last.cancelled
    assert job.poll() == []


def test_all_jobs_share_one_thread_that_is_not_the_callers():
    threads = {drain(RegistrationJob(Counting))[-1].result.thread for _ in range(2)}
    assert len(threads) == 1
    assert threads != {threading.current_thread()}


def test_cancel_stops_after_the_iteration_in_progress_and_keeps_it():
    gate = threading.Semaphore(2)
    job = RegistrationJob(Counting, total=100, gate=gate)
    events = []
    while len(events) < 2:
        events += job.poll()
    job.cancel()
    gate.release()
    events += drain(job)
    assert events[-1].cancelled
    assert events[-1].result.done == 3


def test_cancelled_before_its_turn_it_has_no_result():
    gate = threading.Semaphore(0)
    first = RegistrationJob(Counting, total=1, gate=gate)
    second = RegistrationJob(Counting)
    second.cancel()
    gate.release()
    drain(first)
    (event,) = drain(second)
    assert event == Finished(None, cancelled=True)


@pytest.mark.parametrize(
    "error, message",
    [(InputError("Choose a mask."), "Choose a mask."), (MemoryError("no"), "MemoryError: no")],
)
def test_whatever_is_raised_becomes_an_event(error, message):
    *steps, last = drain(RegistrationJob(Counting, fail=error))
    assert len(steps) == 2
    assert isinstance(last, Failed)
    assert message in last.message
    assert "Traceback" in last.details and last.error is error


def test_a_failed_job_does_not_stop_the_next():
    drain(RegistrationJob(Counting, fail=ValueError()))
    assert isinstance(drain(RegistrationJob(Counting))[-1], Finished)


def test_progress_counts_and_estimates():
    gate = threading.Semaphore(0)
    job = RegistrationJob(Counting, total=5, gate=gate)
    assert job.progress.done == 0 and job.progress.remaining is None
    seen = 0
    for _ in range(3):
        time.sleep(0.05)
        gate.release()
        while not job.poll():
            time.sleep(0.001)
        seen += 1
    progress = job.progress
    assert (progress.done, progress.total) == (2, 4)
    assert progress.elapsed >= 0.15
    assert 0.05 < progress.remaining < 1
    gate.release(2)
    drain(job)
    assert job.progress.remaining == 0 and job.progress.done == 4


def test_the_worker_rests_before_and_after_its_tasks():
    assert job_module.rests(10)
    gate = threading.Semaphore(0)
    job = RegistrationJob(Counting, total=1, gate=gate)
    assert not job_module.rests(0.02)
    gate.release()
    assert job_module.rests(10)
    assert isinstance(job.poll()[-1], Finished)


def test_stopping_cancels_what_runs_and_what_waits():
    gate = threading.Semaphore(1)
    job = RegistrationJob(Counting, total=1000, gate=gate)
    later = RegistrationJob(Counting)
    call = job_module.Call(lambda: 1)
    while not job.poll():
        time.sleep(0.001)
    assert not job_module.stop(0.02)  # it is inside an iteration
    gate.release()
    assert job_module.stop(10)
    assert job.poll()[-1].cancelled and later.poll() == [Finished(None, cancelled=True)]
    assert call.done and call.value is None


def test_a_call_has_the_value_or_the_error():
    good, bad = job_module.Call(divmod, 7, 2), job_module.Call(divmod, 7, 0)
    assert bad.wait(10) and good.done and bad.done
    assert good.value == (3, 1)
    with pytest.raises(ZeroDivisionError):
        _ = bad.value


class Preparing:
    """Asks whether it is cancelled before its first step, as the engine does."""

    def __init__(self, cancelled, asked):
        self.cancelled, self.asked = cancelled, asked

    def __iter__(self):
        while not self.cancelled():
            self.asked.release()
            time.sleep(0.001)
        return
        yield


def test_cancel_ends_the_preparation():
    asked = threading.Semaphore(0)
    job = RegistrationJob(Preparing, asked=asked)
    assert asked.acquire(timeout=10)
    job.cancel()
    assert drain(job) == [Finished(None, cancelled=True)]


def test_warming_up_loads_the_engine_without_waiting():
    script = (
        "import sys, time; from L2ORegistrationLib import job; job.warm_up();"
        "name = 'L2ORegistrationLib.engine.registration'; end = time.monotonic() + 60\n"
        "while not hasattr(sys.modules.get(name), 'Registration') and time.monotonic() < end:\n"
        "    time.sleep(0.05)\n"
        "assert hasattr(sys.modules[name], 'Registration')"
    )
    source = str(Path(job_module.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
