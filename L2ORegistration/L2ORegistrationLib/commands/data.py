"""`--data NAME=FOLDER`: the data sets that `benchmark` and `train` are given, read alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import InputError
from .console import messages, say

if TYPE_CHECKING:
    from ..datasets.cases import Case


def warn(text: str) -> None:
    """Tell on stderr what is left out, such as a case that is skipped."""
    say(text, "yellow", messages)


def read_datasets(
    data: list[str], cases: str | None, skip: bool, names: tuple[str, ...]
) -> dict[str, list[Case]]:
    """The cases of each NAME=FOLDER by the title of their data set; pairs by their folder's name.

    cases: only those of these names, separated by commas; skip: go on without cases that miss files
    or are damaged; names: those that NAME may be. Raises InputError for data that is not there.
    """
    from ..datasets.registry import DATASETS, case_names, load_dataset

    wanted = [name.strip() for name in cases.split(",")] if cases else None
    columns, known = {}, set()
    for item in data:
        name, _, folder = item.partition("=")
        if name not in names or not folder:
            raise InputError(f"--data needs NAME=FOLDER with a NAME of {', '.join(names)}.")
        column = Path(folder).resolve().name if name == "pairs" else DATASETS[name].title
        if column in columns:
            raise InputError(f"--data names two data sets {column}: run them one after the other.")
        columns[column] = name, folder
        known.update(case_names(name, folder))
    unknown = set(wanted or ()) - known
    if unknown:
        raise InputError(f"No data set has a case {', '.join(sorted(unknown))}: check --cases.")
    found = {}
    for column, (name, folder) in columns.items():
        chosen = wanted and [case for case in case_names(name, folder) if case in wanted]
        if chosen != []:
            on_problem = "skip" if skip else "stop"
            found[column] = load_dataset(name, folder, on_problem, cases=chosen, on_skip=warn)
    return found
