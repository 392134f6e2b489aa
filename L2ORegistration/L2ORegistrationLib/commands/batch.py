"""`batch`: a table of pairs in, a folder for each pair and one page of all results out."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import TextColumn, TimeRemainingColumn

from ..core.memory import free_mb
from ..engine.catalogue import DEFAULT
from .console import checked_folder, messages, note, print_json, progress_bar, say, tell_written
from .console import output as out_console
from .options import Device, Iterations, Json, Quiet, Spacing
from .register import Method

_DEFAULT = Method(DEFAULT)
_LEVELS = {"good": "good", "check": "to check", "failed": "failed"}  # of pairs with a transform


def batch(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE", help="CSV with a row a pair, or a folder with a folder a pair."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    scheduler: Annotated[
        str | None, typer.Option(help="Dask scheduler to use, such as tcp://host:8786.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Pairs at a time; by cores and memory if left out.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads for each pair.")] = 1,
    method: Annotated[Method, typer.Option(help="The optimiser.")] = _DEFAULT,
    model: Annotated[
        str | None, typer.Option(help="Weights by name (see `models`) or a .pt file.")
    ] = None,
    iterations: Iterations = None,
    spacing: Spacing = None,
    device: Device = "auto",
    retry: Annotated[
        bool, typer.Option("--retry", help="Try pairs again that were refused before.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Register every pair of TABLE; run it again to go on, or after changing some rows.

    Columns: fixed, moving and any of name, fixed_mask, moving_mask, fixed_landmarks,
    moving_landmarks, initial_transform; relative paths start at the table. A pair that fails is
    named with its reason and the others go on. Ctrl-C keeps all that is finished.
    """
    from ..cohort.cluster import existing_client, local_client, require_dask, worker_count
    from ..cohort.run import map_pairs
    from ..cohort.table import PAGE, RESULTS

    require_dask()
    out = checked_folder(out)
    settings: dict[str, Any] = {"method": method.value, "device": device, "threads": threads}
    given = {"model": model, "iterations": iterations, "spacing": spacing}
    settings |= {key: value for key, value in given.items() if value is not None}

    with ExitStack() as stack:

        def client(rows):
            if scheduler:
                return stack.enter_context(existing_client(scheduler))
            gpus = _gpus(device)
            fitting, needed = worker_count(rows, spacing, threads)
            count = workers or (min(len(gpus), len(rows)) if gpus else fitting)
            if not quiet:
                messages.print(f"{count} at a time, about {needed} MB each.")
            return stack.enter_context(
                local_client(count, threads, gpus=gpus, memory_mb=_share_of_memory(count))
            )

        tell = stack.enter_context(_Progress(shown=not quiet))
        try:
            lines = map_pairs(
                client, table, out, retry_failed=retry, on_row=tell, on_warning=note, **settings
            )
        except KeyboardInterrupt:
            messages.print("Stopped: what is finished is kept; the same command goes on.")
            raise typer.Exit(130) from None
    failures = [line for line in lines if not line["transform"]]
    written = [out / RESULTS, out / PAGE]
    if as_json:
        print_json({"pairs": lines, "written": [str(path) for path in written]})
        return
    made = [line["verdict"] for line in lines if line["transform"]]
    parts = [f"{made.count(level)} {said}" for level, said in _LEVELS.items()]
    out_console.print(f"{', '.join(parts)}, {len(failures)} could not be registered.")
    for line in (line for line in lines if not line["transform"] or line["verdict"] == "failed"):
        say(f"{line['name']}: {line['reasons']}")
    tell_written(*written)


def _gpus(device: str) -> list[int]:
    """The numbers, in this process, of the CUDA devices for workers to share out, one for each."""
    if device not in ("auto", "cuda"):
        return []
    from ..engine.devices import available_devices, choose_device

    names = [name for name, _, _ in available_devices()]
    chosen = str(choose_device(device))
    return [int(n.split(":")[1]) for n in names if chosen.startswith("cuda") and ":" in n]


def _share_of_memory(count: int) -> int | None:
    """The MB at which a worker is ended before the computer runs out of memory."""
    free = free_mb()
    return None if free is None else free // count


class _Progress:
    """A line for each pair on stderr, and a bar with the time left where that is a terminal."""

    def __init__(self, *, shown: bool):
        self._shown = shown
        self._bar = progress_bar(
            TextColumn("left:"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            shown=shown,
            # A pair takes minutes: the pace of the last half hour tells more than that of seconds.
            speed_estimate_period=1800.0,
        )
        self._task = None

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def __call__(self, line: dict[str, Any], done: int, total: int) -> None:
        if self._task is None:
            self._task = self._bar.add_task("pairs", total=total)
        self._bar.update(self._task, completed=done)
        if not self._shown:
            return
        found = line["reasons"] or f"{line.get('seconds')} s"
        text = f"{done:>5} of {total}  {line['name']}: {line['verdict']}, {found}"
        say(text, to=messages)
