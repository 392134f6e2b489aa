"""What a training reports: log.csv, and TensorBoard's files where that package is installed."""

from __future__ import annotations

import csv
import math
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.files import atomic
from .loop import Rollout

FILE, EVENTS = "log.csv", "tensorboard"
RECENT = 50  # rollouts
# Column -> attribute of Rollout
COLUMNS = {
    "step": "step",
    "level": "level",
    "error_before_mm": "before",
    "error_after_mm": "after",
    "loss": "loss",
    "learning_rate": "rate",
    "seconds": "seconds",
}


class TrainingLog:
    """Notes every rollout, at once; a context manager.

    step: how far the checkpoint is from which the training goes on. What an interrupted run noted
    beyond it is dropped, as these steps are done again.
    """

    def __init__(self, folder: Path, step: int):
        path = folder / FILE
        rows = [row for row in read_log(path) if row["step"] <= step]
        with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(row.values() for row in rows)
        # Buffered by lines: each is written when it ends.
        self._file = open(path, "a", newline="", buffering=1, encoding="utf-8")
        self._rows = csv.writer(self._file)
        self._events = _event_writer(folder / EVENTS, step)

    def add(self, rollout: Rollout) -> None:
        """Write a line, and its numbers as scalars by level. Raises InputError for a full disk."""
        try:
            self._rows.writerow([getattr(rollout, name) for name in COLUMNS.values()])
        except OSError as error:
            raise InputError(
                f"{self._file.name} could not be written ({error.strerror}): free some space, the "
                "same command goes on from the last checkpoint."
            ) from error
        if self._events is None:
            return
        for tag, value in (
            ("loss", rollout.loss),
            ("learning_rate", rollout.rate),
            (f"error_before_mm/level_{rollout.level}", rollout.before),
            (f"error_after_mm/level_{rollout.level}", rollout.after),
        ):
            if math.isfinite(value):
                self._events.add_scalar(tag, value, rollout.step)
        self._events.flush()  # as far as the checkpoint, also when the process is killed

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *error) -> None:
        with suppress(OSError):  # add() has told of it
            self._file.close()
        if self._events is not None:
            self._events.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log.csv, as numbers; without what a killed process left half written."""
    if not path.exists():
        return []
    rows = []
    with open(path, newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            try:
                row = {name: float(line[name]) for name in COLUMNS}
            except (KeyError, TypeError, ValueError):
                break
            rows.append(row | {"step": int(row["step"]), "level": int(row["level"])})
    return rows


def recent_errors(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean error in mm {"before", "after"} of the last rollouts; empty where there is none."""
    pairs = np.array([(row["error_before_mm"], row["error_after_mm"]) for row in rows[-RECENT:]])
    pairs = pairs.reshape(-1, 2)[np.isfinite(pairs).reshape(-1, 2).all(axis=1)]
    return dict(zip(("before", "after"), pairs.mean(axis=0).tolist())) if len(pairs) else {}


def _event_writer(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
