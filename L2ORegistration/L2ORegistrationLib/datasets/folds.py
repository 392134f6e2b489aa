"""The paper's five-fold cross-validation over 28 pairs: 10 COPD, 10 4DCT and 8 of EMPIRE10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..core.errors import InputError
from .cases import Case
from .registry import DATASETS

T = TypeVar("T")

# Indices into COPD 1-10, 4DCT 1-10, EMPIRE10 01 07 08 14 18 20 21 28, in this order.
TEST_FOLDS = (
    (0, 1, 15, 16),
    (2, 3, 10, 11),
    (4, 5, 17, 18),
    (6, 7, 12, 13),
    (8, 9, 14, 19),
)
PAIRS = 28
SETS = ("copd", "4dct", "empire10")  # in this order

Columns = dict[str, list[Case]]  # cases by the title of their data set


@dataclass(frozen=True)
class Fold:
    """number: from 1; training, test: the cases of its data sets, none in both."""

    number: int
    training: Columns
    test: Columns


def folds_of(datasets: Mapping[str, Sequence[Case]]) -> list[Fold]:
    """The folds of data sets, which are given by title.

    Raises InputError where a case of COPDgene or 4DCT is missing, or something that has no place
    in a fold is given.
    """
    titles = {name: DATASETS[name].title for name in SETS}
    missing = [name for name in ("copd", "4dct") if not datasets.get(titles[name])]
    if missing:
        raise InputError(
            "Folds are made of DIR-Lab COPDgene and 4DCT, and of EMPIRE10 where it is there: "
            f"give --data {' and --data '.join(f'{name}=FOLDER' for name in missing)} as well."
        )
    others = set(datasets) - set(titles.values())
    if others:
        raise InputError(
            f"{', '.join(sorted(others))} has no place in the folds of COPDgene, 4DCT and "
            "EMPIRE10: leave it out, or train without folds."
        )
    for name in ("copd", "4dct"):  # one missing would put all that follow into other folds
        if (count := len(datasets[titles[name]])) != 10:
            raise InputError(f"Folds need all 10 cases of {titles[name]}, here are {count}.")
    cases = [(title, case) for title in titles.values() for case in datasets.get(title, ())]
    return [
        Fold(number, _grouped(training), _grouped(test))
        for number, (training, test) in enumerate(folds(cases), start=1)
    ]


def _grouped(cases: Sequence[tuple[str, Case]]) -> Columns:
    columns: Columns = {}
    for title, case in cases:
        columns.setdefault(title, []).append(case)
    return columns


def folds(cases: Sequence[T]) -> list[tuple[list[T], list[T]]]:
    """(training cases, test cases) of each fold; `cases` in the order COPD, 4DCT, EMPIRE10.

    Every COPD and 4DCT case is tested once; EMPIRE10, which has no public landmarks, is always
    trained on and may be left out (20 cases). Raises InputError for another number of cases.
    """
    if len(cases) not in (PAIRS, 20):
        raise InputError(
            f"The paper's folds are made of 28 cases (10 COPD, 10 4DCT, 8 EMPIRE10) or the first "
            f"20 of them, got {len(cases)}."
        )
    return [
        ([c for i, c in enumerate(cases) if i not in test], [cases[i] for i in test])
        for test in TEST_FOLDS
    ]
