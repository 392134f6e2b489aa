"""A registration on a worker thread, handed step by step to the thread that asks.

Neither Qt nor MRML is known here: the caller polls, from a timer or in a loop, and stays free to
draw in between. All jobs share one thread that lives as long as the program, because torch keeps
its thread pool and the GPU its context per thread; a second job waits for the first. Whoever polls
from an event loop that keeps Python's lock while it waits, as Slicer's does, has to lend the lock
to the worker: see rests().
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .core.errors import InputError

LOADING_SECONDS = 30.0  # that torch may take from a slow disk
_STOP_SECONDS = 15.0  # nothing between two checks for a cancellation takes nearly as long


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


class RegistrationJob:
    """One registration under way: ``poll()`` until a Finished or Failed comes.

    factory: makes the iterable with the protocol of engine.registration.Registration (the
    default); it is called with `arguments` and `cancelled` on the worker, so building it may take
    its time.
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
        _worker.submit(self)

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
        """Stop after the iteration, or step of the preparation, in progress.

        The best field so far still comes as Finished.
        """
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

    def work(self) -> None:
        """What the worker calls."""
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
        registration = self._factory(cancelled=self._stop.is_set, **self._arguments)
        steps = iter(registration)
        seen = 0
        while not self._stop.is_set():
            step = next(steps, None)
            if step is None:
                break
            seen += 1
            self._put(step)
        cancelled = self._stop.is_set()
        if hasattr(steps, "close"):
            steps.close()
        if not seen:
            return Finished(None, cancelled=cancelled)
        result = registration.result()
        return Finished(result, self._after(result) if self._after else None, cancelled)

    def _put(self, event: Any) -> None:
        self._events.put((time.monotonic(), event))


class Call:
    """A function called on the worker, for what is not a registration but takes long, too."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self._function, self._arguments = function, arguments
        self._cancelled = False
        self._value: Any = None
        self._finished = threading.Event()
        self.error: BaseException | None = None
        _worker.submit(self)

    @property
    def done(self) -> bool:
        """Whether it has returned, raised or been left out."""
        return self._finished.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until it is done, at most so long; returns whether it is. Lends the lock."""
        return self._finished.wait(seconds)

    @property
    def value(self) -> Any:
        """What the function returned; raises what it raised. Only when `done`."""
        if self.error is not None:
            raise self.error
        return self._value

    def cancel(self) -> None:
        """Leave it out, where it has not begun."""
        self._cancelled = True

    def work(self) -> None:
        """What the worker calls."""
        try:
            if not self._cancelled:
                self._value = self._function(*self._arguments)
        except BaseException as error:  # the worker must go on
            self.error = error
        self._finished.set()


class _Worker:
    """A daemon thread, started at the first task, that works on tasks one after the other."""

    def __init__(self):
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._open: list = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.rest = threading.Event()
        self.rest.set()

    def submit(self, task: RegistrationJob | Call) -> None:
        with self._lock:
            self._open.append(task)
            self.rest.clear()
            self._tasks.put(task)
            if self._thread is None:
                loop = threading.Thread(target=self._loop, name="L2ORegistration", daemon=True)
                self._thread = loop
                self._thread.start()
                atexit.register(stop)

    def cancel(self) -> None:
        with self._lock:
            unfinished = list(self._open)
        for task in unfinished:
            task.cancel()

    def _loop(self) -> None:
        while True:
            task = self._tasks.get()
            task.work()
            with self._lock:
                self._open.remove(task)
                if not self._open:
                    self.rest.set()
            del task  # it must not stay alive until the next one comes


_worker = _Worker()


def rests(seconds: float = 0.0) -> bool:
    """Whether the worker has nothing to do, now or at the latest after so many seconds.

    Waiting here hands Python's lock to the worker, if it is the one that wants it.
    """
    return _worker.rest.wait(seconds)


def stop(seconds: float = _STOP_SECONDS) -> bool:
    """Cancel all that the worker has to do and wait until it rests; returns whether it does.

    Before Python ends: a thread that is then inside torch or SimpleITK and comes back for Python's
    lock would abort the process.
    """
    _worker.cancel()
    return rests(seconds)


def warm_up() -> Call:
    """Load on the worker what the first registration needs; the Call has the error, if any.

    Importing torch holds Python's lock for a few tenths of a second: better while the user is
    choosing images than after the click.
    """
    global _loading
    _loading = Call(_load_engine)
    return _loading


_loading: Call | None = None


def loaded(seconds: float = 0.0) -> bool:
    """Whether no warm_up() is under way, now or at the latest after so many seconds.

    Until then the main thread must leave scipy alone: it asks every torch that it finds among the
    loaded modules for its classes, and fails where the import has not come so far.
    """
    return _loading is None or _loading.wait(seconds)


def _load_engine() -> None:
    import torch  # noqa: F401 (what is wrong with torch is the caller's business)

    # Anything else that is broken is reported where it is needed: by the registration.
    with contextlib.suppress(Exception):
        from .engine import registration  # noqa: F401


def _engine_registration(**arguments: Any):
    from .engine.registration import Registration  # here, so that torch is imported by the worker

    return Registration(**arguments)
