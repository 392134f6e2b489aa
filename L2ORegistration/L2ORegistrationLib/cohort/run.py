"""All pairs of a table on the workers of a Dask client; done ones are not done again."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from ..core.paths import at_home, check_writable
from .cluster import require_dask
from .pair import (
    KILLED,
    MOST_STARTS,
    check_settings,
    failed,
    finished,
    register_pair,
    starts,
)
from .results import Results
from .table import Row, checked_rows, read_table

if TYPE_CHECKING:
    from distributed import Client, Future

_LOCK = ".running"


def map_pairs(
    client: Client | Callable[[list[Row]], Client],
    table: str | Path | Iterable[Row | Mapping[str, str]],
    out: str | Path = "cohort",
    *,
    retry_failed: bool = False,
    on_row: Callable[[dict[str, Any], int, int], object] | None = None,
    on_warning: Callable[[str], object] = warnings.warn,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Register every pair of a table and return the lines of results.csv, in the table's order.

    client: a dask.distributed Client whose workers see the same files, or a function that makes one
    for the rows that are left to do, called only if there are some; table: see
    `table.read_table`, or its rows; out: folder for a folder a pair, results.csv and index.html,
    made if missing; retry_failed: try again what was refused before; on_row: called as
    on_row(line, done, total), also for pairs that were done before; on_warning: told in a sentence
    what does not end the run; settings: arguments of engine.registration.Registration that hold for
    all pairs, such as method or spacing.

    Raises InputError for a table or settings that cannot be used, a folder that another run works
    in and, after the last pair, for results.csv or index.html where they cannot be written, as when
    Excel shows them; what goes wrong with one pair is said in its line. On KeyboardInterrupt the
    rest is cancelled, everything that was finished stays, and the next call goes on from there.
    """
    require_dask()
    rows = read_table(table) if isinstance(table, str | Path) else checked_rows(table)
    for role in ("model", "start_model"):
        if Path(settings.get(role) or "").suffix == ".pt":  # workers may run elsewhere
            settings[role] = str(at_home(settings[role]).absolute())
    check_settings(settings)  # else every pair would fail, one after the other
    out = at_home(out).absolute()
    _check_apart(rows, out)
    check_writable(out if out.exists() else out.parent)
    out.mkdir(exist_ok=True)
    with _alone(out):
        results = Results(out, rows, on_warning)
        todo = []
        for row in rows:
            line = finished(row, out / row.name, settings, failed_too=not retry_failed)
            if line is None:
                todo.append(row)
            else:
                results.add(line)
                if on_row:
                    on_row(line, len(results), len(rows))
        try:
            if todo:
                if not hasattr(client, "submit"):
                    client = client(todo)
                for line in _run(client, todo, out, settings):
                    results.add(line)
                    if on_row:
                        on_row(line, len(results), len(rows))
        except BaseException:
            # What was finished, but not yet received when the user stopped, counts.
            for row in todo:
                if row.name not in results and (line := finished(row, out / row.name, settings)):
                    results.add(line)
            results.write_if_possible()  # why the run ends is the more important news
            raise
        results.write()
    return results.lines()


def _check_apart(rows: Iterable[Row], out: Path) -> None:
    """Raise InputError where a pair's results would lie among its scans, and replace files there.

    In a folder of slices they would also change the input, and the pair be done anew each time.
    """
    whole = Path(os.path.realpath(out))
    for row in rows:
        home = whole / row.name
        for path in map(Path, row.inputs.values()):
            if home in (there := Path(os.path.realpath(path)), *there.parents):
                raise InputError(
                    f"{path} lies in the folder {out / row.name}, where the results of this pair "
                    "would be written: give another --out."
                )


def _run(client: Client, rows: list[Row], out: Path, settings: dict) -> Iterator[dict[str, Any]]:
    """The lines of these rows, as they come."""
    from distributed import KilledWorker, as_completed

    run = secrets.token_hex(8)

    def submitted(row: Row, attempt: int = 0) -> Future:
        key = f"register-{run}-{attempt}-{row.name}"
        return client.submit(
            register_pair, row, str(out / row.name), settings, run, key=key, pure=False
        )

    waiting = {(future := submitted(row)).key: (future, row) for row in rows}
    again: set[str] = set()
    arriving = as_completed([future for future, _ in waiting.values()])
    try:
        for future in arriving:
            _, row = waiting.pop(future.key)
            error = future.exception() if future.status != "finished" else None
            if error is None:
                line = future.result()
            elif not isinstance(error, KilledWorker):
                line = failed(row, f"The worker failed ({type(error).__name__}: {error}).")
            elif starts(out / row.name, run) < MOST_STARTS and row.name not in again:
                # Its worker died of another pair, before this one was begun or for the first time.
                again.add(row.name)
                other = submitted(row, attempt=1)
                waiting[other.key] = other, row
                arriving.add(other)
                continue
            else:
                line = failed(row, KILLED)
            yield line
    finally:
        client.cancel([future for future, _ in waiting.values()])


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system takes back even from a run that was killed."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(out / _LOCK, timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"Another run is working in {out}: wait for its end, or choose another folder."
        ) from error
