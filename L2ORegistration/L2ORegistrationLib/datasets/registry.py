"""Data sets to train on and to measure with, in the files that their authors publish.

None of them may be shipped with this project; each reader says what it misses and where the data
is requested.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..core.errors import InputError
from ..core.files import IMAGES, MASKS
from ..core.paths import at_home, suffix_of
from ..phantom.pair import PhantomPair, make_pair
from ..phantom.seeds import measured
from . import dirlab, empire10, learn2reg
from .cases import Case, Entry, image_grid, image_of, labels_of, mask_of, naming, points_of

_POINTS = (".csv", ".mrk.json", ".fcsv", ".txt")
_EMORY = (
    "med.emory.edu > radiation oncology > deformable image registration > downloads and "
    "reference data (request form; the files are free for research)"
)


@dataclass(frozen=True)
class Dataset:
    """A kind of folder: its title, how it lists its cases and where its data is requested.

    default: the names of the cases that are read when none are asked for (None: all).
    """

    title: str
    entries: Callable[[Path], list[Entry]]
    source: str
    default: tuple[str, ...] | None = None


def load_dataset(
    name: str,
    folder: str | Path,
    on_problem: str = "stop",
    *,
    cases: Sequence[str] | None = None,
    on_skip: Callable[[str], object] = warnings.warn,
) -> list[Case]:
    """The cases of the data set `name` (a key of DATASETS) in a folder; images are read later.

    folder: for "phantom" the seeds instead, such as "0-4". cases: only those with these names.
    on_problem: "stop" raises InputError for the first case that misses a file or has a damaged
    one, naming case, file and where the data is requested; "skip" goes on with the others and
    calls on_skip(message). What cannot be seen without reading an image (a damaged voxel stream)
    is raised by `Case.fixed()` and its like, naming the case as well.
    """
    if on_problem not in ("stop", "skip"):
        raise InputError(f"on_problem must be 'stop' or 'skip', got '{on_problem}'.")
    entries = _entries(name, folder)
    dataset = DATASETS[name]
    source = _source(dataset)
    wanted = dataset.default if cases is None else tuple(cases)
    if wanted is not None:
        unknown = set(wanted) - {entry.name for entry in entries}
        if unknown:
            known = ", ".join(entry.name for entry in entries) or "none"
            raise InputError(
                f"{dataset.title} has no case {', '.join(sorted(unknown))}: there are {known}."
            )
        entries = [entry for entry in entries if entry.name in wanted]
    found = []
    for entry in entries:
        try:
            with naming(entry.name):
                found.append(entry.make())
        except InputError as error:
            if on_problem == "stop":
                raise InputError(f"{dataset.title}: {error}{source}") from error
            on_skip(f"{dataset.title}: {error} Skipped.")
    if not found:
        raise InputError(f"{folder} holds no complete case of {dataset.title}.{source}")
    return found


def case_names(name: str, folder: str | Path) -> list[str]:
    """The names of the cases that the data set should hold in this folder, there or missing.

    Raises InputError for unknown data sets and folders that are not there.
    """
    return [entry.name for entry in _entries(name, folder)]


def _entries(name: str, folder: str | Path) -> list[Entry]:
    if name not in DATASETS:
        raise InputError(f"There is no data set '{name}': use one of {', '.join(DATASETS)}.")
    dataset = DATASETS[name]
    folder = at_home(folder)
    if name != "phantom" and not folder.is_dir():
        raise InputError(f"The folder {folder} does not exist: check the path.{_source(dataset)}")
    try:
        return dataset.entries(folder)
    except InputError as error:
        raise InputError(f"{error}{_source(dataset)}") from error


def _source(dataset: Dataset) -> str:
    return f" {dataset.title} comes from {dataset.source}." if dataset.source else ""


def _pairs(folder: Path) -> list[Entry]:
    """Folders with fixed.nii.gz, moving.nii.gz and what is known of them; or one such folder."""
    folders = [folder] if _files(folder, "fixed") else sorted(folder.iterdir())
    return [
        Entry(path.name, lambda path=path: _pair(path))
        for path in folders
        if path.is_dir() and (_files(path, "fixed") or _files(path, "moving"))
    ]


def _pair(folder: Path) -> Case:
    images = [
        _file(folder, side, IMAGES) or folder / f"{side}.nii.gz" for side in ("fixed", "moving")
    ]
    masks = [_file(folder, f"{side}_mask", MASKS) for side in ("fixed", "moving")]
    labels = [
        _file(folder, f"{side}_labels", MASKS) or folder / f"{side}_labels.nii.gz"
        for side in ("fixed", "moving")
    ]
    return Case(
        folder.name,
        *(image_of(folder.name, path) for path in images),
        *(path and mask_of(folder.name, path) for path in masks),
        landmarks=_pair_points(folder, images, "landmarks"),
        keypoints=_pair_points(folder, images, "keypoints"),
        labels=labels_of(folder.name, *labels),
    )


def _pair_points(folder: Path, images: list[Path], kind: str):
    fixed, moving = (_file(folder, f"{side}_{kind}", _POINTS) for side in ("fixed", "moving"))
    if fixed is None and moving is None:
        return None
    fixed, moving = fixed or folder / f"fixed_{kind}.csv", moving or folder / f"moving_{kind}.csv"
    return points_of(fixed, moving, *(image_grid(path) for path in images))


def _file(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path | None:
    """The file of this name that is read; None where there is no file of this name.

    Raises InputError where there are only others, which would be passed over without a word.
    """
    files = _files(folder, stem)
    read = [path for path in files if suffix_of(path) in suffixes]
    if files and not read:
        raise InputError(
            f"{files[0]} is not read as {stem}: save it as {', '.join(suffixes)}, or rename it."
        )
    return min(read, key=lambda path: suffixes.index(suffix_of(path)), default=None)


def _files(folder: Path, stem: str) -> list[Path]:
    """The files of this name, with whatever suffix."""
    files = sorted(path for path in folder.glob(f"{stem}*") if path.is_file())
    return [p for p in files if p.name[: len(p.name) - len(suffix_of(p))] == stem]


def _phantoms(seeds: Path) -> list[Entry]:
    """seeds: "3" or "0-4"; of phantoms that no network has learned from."""
    first, _, last = str(seeds).partition("-")
    try:
        numbers = range(int(first), int(last or first) + 1)
    except ValueError:
        raise InputError(f"Phantoms are made from seeds such as 0-4, got '{seeds}'.") from None
    return [Entry(f"seed{seed}", lambda seed=seed: _phantom(seed)) for seed in numbers]


def _phantom(seed: int) -> Case:
    pair = _made(seed)
    return Case(
        f"seed{seed}",
        lambda: _made(seed).fixed,
        lambda: _made(seed).moving,
        lambda: _made(seed).fixed_mask,
        lambda: _made(seed).moving_mask,
        landmarks=(pair.fixed_landmarks, pair.moving_landmarks),
    )


@lru_cache(maxsize=1)
def _made(seed: int) -> PhantomPair:
    return make_pair(measured(seed))


DATASETS = {
    "4dct": Dataset("DIR-Lab 4DCT", dirlab.four_d, _EMORY),
    "copd": Dataset("DIR-Lab COPDgene", dirlab.copd, _EMORY),
    "empire10": Dataset(
        "EMPIRE10",
        empire10.pairs,
        "empire10.grand-challenge.org (registration as a team)",
        empire10.PAPER_CASES,
    ),
    "learn2reg": Dataset(
        "Learn2Reg LungCT",
        learn2reg.lung_ct,
        "learn2reg.grand-challenge.org and zenodo.org/records/3835682",
    ),
    "nlst": Dataset("Learn2Reg NLST", learn2reg.nlst, "learn2reg.grand-challenge.org (task NLST)"),
    "pairs": Dataset("Pairs", _pairs, ""),
    "phantom": Dataset("Breathing phantom", _phantoms, ""),
}
