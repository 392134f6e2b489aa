"""One training as the command line shows it: pairs prepared, steps followed, weights written."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import typer
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from ..core.errors import InputError
from ..core.paths import made
from .console import messages, progress_bar
from .console import output as out
from .data import warn

if TYPE_CHECKING:
    from ..datasets.cases import Case
    from ..engine.models import ModelCard
    from ..training.config import TrainingConfig
    from ..training.workers import Workers

_WINDOW = 50  # rollouts over which the shown errors are averaged


@dataclass(frozen=True)
class Experiment:
    """What all trainings of one command have in common.

    folder: where prepared pairs are kept; phantoms: how many are mixed in; skip: go on without
    cases that turn out damaged; licence: of the weights (None: by the data).
    """

    folder: Path
    config: TrainingConfig
    phantoms: int
    skip: bool
    device: str
    workers: Workers
    licence: str | None
    shown: bool

    def train(self, datasets: dict[str, list[Case]], folder: Path, name: str) -> ModelCard | None:
        """Train in `folder` and write NAME.pt there; what is already there goes on.

        Returns the card of the weights, in the first process only.
        """
        from ..training.run import check, export

        workers = self.workers
        check(folder, self.config, self.phantoms)
        pairs = workers.shared(lambda: self._prepared(datasets))
        made(folder)
        self._follow(folder, pairs)
        if not workers.first:
            return None
        count = f"{workers.count} processes on " if workers.count > 1 else ""
        kind = self.device.partition(":")[0]
        mixed = self.config.mixed_precision and not self.config.close and kind == "cuda"
        device = f"{count}{kind}, {'bfloat16' if mixed else 'float32'}"
        return export(folder, name, pairs, self.config, device, self.licence)

    def _prepared(self, datasets: dict[str, list[Case]]) -> dict[str, list[Path]]:
        """The files of the prepared pairs by data set; those already there are kept."""
        from ..training.card import PHANTOMS
        from ..training.phantoms import phantom_pairs
        from ..training.real import real_pairs

        if datasets and self.config.close:
            raise InputError(
                f"The network '{self.config.variant}' learns from phantoms only, because keypoints "
                "of real scans are not exact enough: leave --data out."
            )
        folder, found = made(made(self.folder) / "pairs"), {}
        with _bar(self.shown) as bar:
            for title, cases in datasets.items():
                task = bar.add_task(f"preparing {title}", total=len(cases), error="")
                found[title] = real_pairs(
                    cases,
                    folder / quote(title, safe=" "),
                    "skip" if self.skip else "stop",
                    on_pair=lambda path, task=task: bar.advance(task),
                    on_skip=warn,
                )
            if self.phantoms:
                task = bar.add_task("drawing phantoms", total=self.phantoms, error="")
                found[PHANTOMS] = phantom_pairs(
                    folder,
                    self.phantoms,
                    self.config.seed,
                    on_pair=lambda path: bar.advance(task),
                    close=self.config.close,
                )
        found = {title: paths for title, paths in found.items() if paths}
        if not found:
            raise InputError("No pair is left to train on: see above what is wrong with them.")
        return found

    def _follow(self, folder: Path, pairs: dict[str, list[Path]]) -> None:
        from ..training.run import run

        recent: deque = deque(maxlen=_WINDOW)
        told = 0
        with _bar(self.shown) as bar:
            task = bar.add_task("training", total=self.config.steps, error="")
            for progress in run(folder, pairs, self.config, self.device, self.workers):
                if math.isfinite(progress.after):
                    recent.append((progress.before, progress.after))
                means = (sum(column) / len(recent) for column in zip(*recent, strict=True))
                error = "error {:.2f} -> {:.2f} mm".format(*means) if recent else ""
                bar.update(task, completed=progress.step, error=error)
                kept = progress.step - progress.step % self.config.checkpoint_every
                if self.shown and not messages.is_terminal and kept > told:
                    messages.print(f"step {progress.step}: {error}, {progress.seconds:.0f} s")
                    told = kept


@contextmanager
def one_voice() -> Iterator[None]:
    """Of the processes that torchrun started, only the first one prints."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0":
        yield
        return
    messages.quiet = out.quiet = True
    try:
        yield
    except InputError:
        raise typer.Exit(2) from None


def _bar(shown: bool) -> Progress:
    """It stays, so that what was prepared stands above what is trained."""
    error = TextColumn("{task.fields[error]}")
    return progress_bar(TimeRemainingColumn(), error, shown=shown, transient=False)
