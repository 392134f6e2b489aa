"""Training pairs from real scans: their own keypoints, or correspondences found automatically."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from ..core.errors import InputError
from ..datasets.cases import Case, naming
from ..engine.images.lungs import lung_mask
from .keypoints import find_keypoints
from .prepared import PreparedPair, prepare


def real_pairs(
    cases: Sequence[Case],
    folder: str | Path,
    on_problem: str = "stop",
    *,
    on_pair: Callable[[Path], object] | None = None,
    on_skip: Callable[[str], object] = warnings.warn,
) -> list[Path]:
    """Prepare cases in a folder; those already there are kept. Returns their files.

    on_problem: "stop" raises InputError for a case that turns out damaged when it is read, "skip"
    goes on and calls on_skip(message). on_pair(path), where given, is called after each.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for case in cases:
        path = folder / f"{quote(case.name, safe='')}.pt"  # a name of its own for every case
        try:
            if not path.exists():
                prepare_case(case).save(path)
        except InputError as error:
            if on_problem == "stop":
                raise
            on_skip(f"{error} Skipped.")
            continue
        paths.append(path)
        if on_pair is not None:
            on_pair(path)
    return paths


def prepare_case(case: Case) -> PreparedPair:
    """Read a case and prepare it with its keypoints (None: found now, which takes a minute).

    Expert landmarks are left for measuring. Raises InputError, naming the case, where a file is
    damaged, no lung is found or nothing corresponds.
    """
    images = case.fixed(), case.moving()
    given = [read and read() for read in (case.fixed_mask, case.moving_mask)]
    with naming(case.name):
        masks = [mask or lung_mask(image) for mask, image in zip(given, images)]
        keypoints = case.keypoints or find_keypoints(*images, *masks)
        return prepare(*images, *masks, *keypoints)
