"""A job in the background that the scene follows, a registration or that of a whole breath."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any

from ..core.errors import InputError
from ..job import Failed, Finished, Progress, RegistrationJob

_POLL_SECONDS = 0.03  # of the main thread, after which further steps wait for the next poll()


class BackgroundRun:
    """A job that the scene follows: poll() it until `active` is False, then read `outcome`.

    Everything here is for the main thread. A subclass says in _take() what becomes of an event and
    in _put_back() how the scene becomes again what it was.
    """

    def __init__(self, scene, needed: list, job: RegistrationJob):
        """needed: nodes that must stay in the scene until it has ended."""
        self.outcome: Any = None  # None as well where nothing came of it
        self.active = True
        self.job = job
        self._scene = scene
        self._needed = needed
        self._pending: list = []

    @property
    def progress(self) -> Progress:
        """Steps done and planned, seconds elapsed and remaining."""
        return self.job.progress

    def poll(self, most: int | None = None) -> list:
        """The job's events since the last call, when the scene shows them; the last one is Finished
        or Failed.

        most: leave further events for the next call. Never raises: whatever goes wrong is a
        Failed, after the scene is as it was before.
        """
        if not self.active:
            return []
        gone = [node for node in self._needed if node.GetScene() is not self._scene]
        if gone:
            self._undo()
            return [
                Failed(f"The registration stopped: '{gone[0].GetName()}' was taken from the scene.")
            ]
        self._pending += self.job.poll()
        events = []
        until = time.monotonic() + _POLL_SECONDS
        while self._pending and self.active and time.monotonic() < until and len(events) != most:
            event = self._pending.pop(0)
            try:
                self._take(event)
            except Exception as error:
                event = Failed(_sentence(error), traceback.format_exc(), error)
                self._undo()
            events.append(event)
        return events

    def wait(self, on_step: Callable | None = None) -> Any:
        """The outcome, when it has ended; for scripts.

        on_step: called with every step; stops the run, keeping what is done, by returning False.
        Raises InputError for what the user can mend, else RuntimeError; the scene is then as
        before.
        """
        try:
            while self.active:
                for event in self.poll(most=1):
                    if isinstance(event, Failed):
                        raise _exception(event) from event.error
                    if not isinstance(event, Finished) and on_step and on_step(event) is False:
                        self.cancel()
                time.sleep(0.005)
        except BaseException:
            self.abandon()
            raise
        return self.outcome

    def cancel(self) -> None:
        """Stop after the step in progress and keep what is done; goes on until Finished."""
        self.job.cancel()

    def abandon(self) -> None:
        """Stop and put the scene back at once; nothing is kept."""
        if self.active:
            self._undo()

    def _undo(self) -> None:
        self.active, self.outcome = False, None
        self.job.cancel()
        self._put_back()

    def _take(self, event) -> None:
        raise NotImplementedError

    def _put_back(self) -> None:
        raise NotImplementedError


def _sentence(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    return f"The result could not be shown ({type(error).__name__}: {error})."


def _exception(event: Failed) -> Exception:
    """What wait() raises: InputError for what the user can mend, else RuntimeError."""
    if isinstance(event.error, InputError) or event.error is None:
        return InputError(event.message)
    return RuntimeError(event.message)
