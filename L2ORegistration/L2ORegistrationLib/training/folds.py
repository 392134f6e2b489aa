"""The paper's five-fold cross-validation over 28 pairs: 10 COPD, 10 4DCT and 8 of EMPIRE10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ..errors import InputError

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
