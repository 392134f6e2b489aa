"""What all commands share: checks before the work, progress during it, tables or JSON after it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from ..core.errors import InputError
from ..core.files import read_landmarks
from ..core.geometry import Grid
from ..core.measures import paired, summarise, target_registration_error
from ..core.paths import at_home, check_writable, checked_suffix, writable_file
from ..reporting import certainty
from ..reporting.tables import LandmarkPairs, plain

if TYPE_CHECKING:
    from ..engine.registration import Registration
    from ..engine.result import Result

_WHAT_TO_TRY = (
    "What to try: are both scans of one patient, and in the right order? Give lung masks of your "
    "own (--fixed-mask, --moving-mask), or begin from landmarks (--start landmarks)."
)
_LINES = 30  # of progress, about, that one run prints at most

output = Console(highlight=False)
messages = Console(stderr=True, highlight=False)


def checked_file(path: Path, suffixes: tuple[str, ...], what: str) -> Path:
    """The path of a file that can be written. Raises InputError, before hours of work, if not."""
    checked_suffix(path, suffixes, what)
    return writable_file(path)


def check_apart(written: Iterable[Path | None], read: Iterable[Path | None]) -> None:
    """Raise InputError for a file that would be written twice, or over one that is read."""
    taken = [(at_home(path).resolve(), "is read") for path in read if path]
    for path in written:
        if path is None:
            continue
        where = at_home(path).resolve()
        for other, how in taken:
            # A.nii is a.nii where the file system has no case.
            if where == other or (where.exists() and other.exists() and where.samefile(other)):
                raise InputError(f"{path} would be overwritten, it {how}: give another name.")
        taken.append((where, "is also another result"))


def checked_folder(path: Path) -> Path:
    """The path of a folder that exists, or that can be made in one that exists, and be written to.

    Raises InputError if not; the folder is made only by `paths.made`.
    """
    path = at_home(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: give the name of a folder.")
    check_writable(path if path.exists() else path.absolute().parent)
    return path


def read_pairs(
    fixed: Path | None, moving: Path | None, fixed_grid: Grid | None, moving_grid: Grid | None
) -> LandmarkPairs | None:
    """Landmark pairs, points (N, 3) LPS mm, of two files; None without files.

    Points without a partner are named on stderr. Raises InputError for one file alone, for what
    `match_landmarks` refuses and for points outside a given grid.
    """
    if fixed is None and moving is None:
        return None
    if fixed is None or moving is None:
        raise InputError("Landmarks come in pairs: give --fixed-landmarks and --moving-landmarks.")
    read = read_landmarks(fixed, fixed_grid), read_landmarks(moving, moving_grid)
    pairs, left_out = paired(*read, fixed_grid, moving_grid)
    if left_out:
        note(left_out)
    return pairs


def follow(
    registration: Registration, pairs: LandmarkPairs | None = None, *, shown: bool = True
) -> Result:
    """Run a registration to its end, or to Ctrl-C, with a line per iteration on stderr.

    After Ctrl-C the result (the best field so far) has `cancelled` set; before the first step
    there is none, and KeyboardInterrupt goes on.
    """
    started = False
    try:
        with _progress(registration.total, shown, pairs is not None) as tell:
            for step in registration:
                started = True
                error = None
                if pairs is not None:
                    error = summarise(target_registration_error(step.field, *pairs))["mean"]
                tell(step, error)
    except KeyboardInterrupt:
        if not started:
            messages.print("[yellow]Stopped[/] before the first step: there is nothing to keep.")
            raise
        messages.print("[yellow]Stopped:[/] the best field so far is kept.")
    if shown:
        messages.print("Estimating how far off it may be ...")
    return registration.result()


def progress_bar(*more: ProgressColumn, shown: bool, **options: Any) -> Progress:
    """A bar on stderr, where that is a terminal: what is done, how much of how many, and `more`.

    It goes away in the end; options: of rich's Progress.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *more
    disabled = not (shown and messages.is_terminal)
    options = {"transient": True, **options}
    return Progress(*columns, console=messages, disable=disabled, **options)


def measures_table(rows: dict[str, dict[str, Any]], title: str | None = None) -> Table:
    """A table of what `tables.table` returns; without the columns that no row has."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.collapse_padding = True  # of 80 columns, which a terminal or a file has, none is cut
    table.add_column("")
    tre = any("tre" in row for row in rows.values())
    errors = {"TRE mean": "mean", "median": "median", "p95": "p95"} if tre else {}
    columns = {
        **{name: ("tre", key) for name, key in errors.items()},
        "folding %": ("jacobian", "folding"),
        "SDlogJ": ("jacobian", "sdlogj"),
        "Learn2Reg": ("jacobian", "sdlogj_learn2reg"),
        "seconds": ("seconds", None),
    }
    present = {
        name: where for name, where in columns.items() if any(where[0] in r for r in rows.values())
    }
    for name in present:
        table.add_column(name, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(_cell(column, row, *where) for column, where in present.items()))
    return table


def say(text: str, style: str | None = None, to: Console = output) -> None:
    """Print a text as it is, however long its lines are."""
    to.print(text, style=style, markup=False, soft_wrap=True)


def note(sentence: str) -> None:
    """A sentence on stderr that the user should know of."""
    say(f"Note: {sentence}", "yellow", messages)


def tell_verdict(verdict: str, reasons: Iterable[str]) -> None:
    """The verdict in its colour, and a line for each reason."""
    colour = {"good": "green", "check": "yellow", "failed": "red"}[verdict]
    output.print(f"Verdict: [bold {colour}]{verdict}[/]")
    for reason in reasons:
        say(f"  {reason}")
    if verdict == "failed":
        say(f"  {_WHAT_TO_TRY}")


def tell_certainty(result: Result, pairs: LandmarkPairs | None = None) -> None:
    """The verdict with its reasons, how far off the result may be, and whether landmarks agree."""
    tell_verdict(result.verdict, result.reasons)
    said = certainty.sentence(result.provenance)
    more = certainty.of_landmarks(result, pairs) if pairs is not None else ""
    say(f"Confidence: {said} {more}".rstrip())


def tell_written(*paths: Path) -> None:
    """A line on stdout for each file that was written."""
    for path in paths:
        say(f"Wrote {path}")


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout; numbers that JSON cannot hold become null."""
    print(json.dumps(plain(document), indent=1, allow_nan=False))


def _cell(column: str, row: dict[str, Any], group: str, key: str | None) -> str:
    value = row.get(group) if key is None else row.get(group, {}).get(key)
    if value is None:
        return ""
    if column == "folding %":
        return f"{100 * value:.3g}"
    return f"{value:.1f}" if column == "seconds" else f"{value:.3f}"


@contextmanager
def _progress(total: int, shown: bool, with_tre: bool) -> Iterator:
    """A function that prints a line per step, above a bar where stderr is a terminal.

    Of long runs only some of the steps get a line of their own; the bar shows every one.
    """
    if not shown:
        yield lambda step, error: None
        return
    head = f"{'iteration':>9}  {'stage':<8}{'level':>5}  {'dissimilarity':>13}"
    messages.print(f"[bold]{head}{'  TRE mm' if with_tre else ''}  seconds")
    with progress_bar(TimeElapsedColumn(), shown=True) as bar:
        task = bar.add_task("", total=total)
        stride = max(1, total // _LINES)

        def tell(step, error: float | None) -> None:
            before = step.stage == "initial"
            number, level = ("", "") if before else (step.index - 1, step.level)
            line = f"{number:>9}  {step.stage:<8}{level:>5}  {step.dissimilarity:>13.5f}"
            if error is not None:
                line += f"  {error:>6.2f}"
            if step.index % stride == 0 or step.index in (1, step.total):
                messages.print(f"{line}  {step.seconds:>7.1f}")
            bar.update(task, completed=step.index, total=step.total, description=line)

        yield tell
