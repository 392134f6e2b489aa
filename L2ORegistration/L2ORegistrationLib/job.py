"""A registration on a worker thread, handed step by step to the thread that asks.

Neither Qt nor MRML is known here: the caller polls, from a timer or in a loop, and stays free to
draw in between. All jobs share one thread that lives as long as the program, because torch keeps
its thread pool and the GPU its context per thread; a second job waits for the first.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import InputError


@dataclass(frozen=True)
class Finished:
    """The last event of a job that ran to its end or was cancelled.

    result: the engine's Result, None when it was cancelled before the first step;
    extra: what `after(result)` returned; cancelled: whether steps were left out.
    """

    result: Any
    extra: Any = None
    cancelled: bool = False


@dataclass(frozen=True)
class Failed:
    """The last event of a job that raised: a sentence for the user and the details for a log."""

    message: str
    details: str = ""
    error: BaseException | None = None


@dataclass(frozen=True)
class Progress:
    """How far a job is: steps done of total, seconds elapsed and remaining (None: not known)."""

    done: int
    total: int
    elapsed: float
    remaining: float | None

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return self.done / self.total if self.total else 0.0


class RegistrationJob:
    """One registration under way: ``poll()`` until a Finished or Failed comes.

    factory: makes the iterable with the protocol of engine.registration.Registration (the
    default); it is called with `arguments` on the worker, so building it may take its time.
    after: called with the Result on the worker, for what else takes long; its value is in Finished.
    """

    def __init__(
        self,
        factory: Callable[..., Any] | None = None,
        *,
        after: Callable[[Any], Any] | None = None,
        **arguments: Any,
    ):
        self._factory = factory or _engine_registration
        self._after = after
        self._arguments = arguments
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._stop = threading.Event()
        self._began = time.monotonic()
        self._times: list[float] = []
        self._done = self._total = 0
        self._ended: float | None = None
        _worker.submit(self._work)

    def poll(self) -> list:
        """The events since the last call: Steps, at last one Finished or Failed. Never waits."""
        events = []
        while True:
            try:
                moment, event = self._events.get_nowait()
            except queue.Empty:
                return events
            if isinstance(event, Finished | Failed):
                self._ended = moment
            else:
                self._done, self._total = event.index, event.total
                self._times.append(moment)
            events.append(event)

    def cancel(self) -> None:
        """Stop after the iteration in progress; the best field so far still comes as Finished."""
        self._stop.set()

    @property
    def active(self) -> bool:
        """Whether poll() still has to deliver the last event."""
        return self._ended is None

    @property
    def progress(self) -> Progress:
        """As of the last poll(). Later steps tend to be slower, so the latest one counts most."""
        elapsed = (self._ended or time.monotonic()) - self._began
        remaining = None
        if not self.active:
            remaining = 0.0
        elif len(self._times) > 2:
            mean = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
            a_step = max(mean, self._times[-1] - self._times[-2])
            since = time.monotonic() - self._times[-1]
            remaining = max(0.0, a_step * (self._total - self._done) - since)
        return Progress(self._done, self._total, elapsed, remaining)

    def _work(self) -> None:
        try:
            event = self._run()
        except InputError as error:
            event = Failed(str(error), traceback.format_exc(), error)
        except BaseException as error:  # whatever it is, the caller must not wait for ever
            message = f"The registration failed ({type(error).__name__}: {error})."
            event = Failed(message, traceback.format_exc(), error)
        self._factory = self._after = None
        self._arguments = {}  # the images need not outlive the run
        self._put(event)

    def _run(self) -> Finished:
        if self._stop.is_set():
            return Finished(None, cancelled=True)
        registration = self._factory(**self._arguments)
        steps = iter(registration)
        seen = 0
        cancelled = True
        while not self._stop.is_set():
            step = next(steps, None)
            if step is None:
                cancelled = False
                break
            seen += 1
            self._put(step)
        if hasattr(steps, "close"):
            steps.close()
        if not seen:
            return Finished(None, cancelled=cancelled)
        result = registration.result()
        return Finished(result, self._after(result) if self._after else None, cancelled)

    def _put(self, event: Any) -> None:
        self._events.put((time.monotonic(), event))


class _Worker:
    """A daemon thread, started at the first task, that runs tasks one after the other."""

    def __init__(self):
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, task: Callable[[], None]) -> None:
        self._tasks.put(task)
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="L2ORegistration", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        while True:
            self._tasks.get()()


_worker = _Worker()


def warm_up() -> None:
    """Load on the worker what the first registration needs.

    Importing torch holds Python's lock for a few tenths of a second: better while the user is
    choosing images than after the click.
    """
    _worker.submit(_load_engine)


def _load_engine() -> None:
    # A broken installation is reported where it is needed: by the registration.
    with contextlib.suppress(Exception):
        from .engine import registration  # noqa: F401


def _engine_registration(**arguments: Any):
    from .engine.registration import Registration  # here, so that torch is imported by the worker

    return Registration(**arguments)
