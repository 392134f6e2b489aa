"""The phases of a 4DCT from whatever holds them: files, a 4-D image, a Slicer sequence or DICOM."""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..core.dicom_series import series_in, stacked
from ..core.errors import InputError
from ..core.files import IMAGES, checked_volume, read_image, read_volume
from ..core.geometry import Grid, Volume
from ..core.paths import counted, existing, suffix_of

# DICOM: what may tell the phases of one study or series apart, the most telling first.
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*%\s*(in|ex)?", re.I)
# Not the t of "Chest 3" or "CT 3", which is followed by the thickness of the slices.
_NUMBER = re.compile(
    r"(?:(?:phase|gated|ph|(?<![a-z])t)[\s_=,.]*|4d-?ct[\s_=,]*(?!\d+\.))(\d{1,3})\b()", re.I
)
# What is made of several phases: their average or a projection, or a range of percentages.
_SUMMARY = re.compile(
    r"(?<![a-z])(?:averaged?|avg|ave|mean|(?:ave|avg|max|min|m|a)[-_ ]?ip)(?![a-z])", re.I
)
_RANGE = re.compile(r"\d\s*%?\s*(?:[-~\N{EN DASH}]|to)\s*\d{1,3}(?:\.\d+)?\s*%", re.I)
_DESCRIPTION, _SERIES_NUMBER = "0008|103e", "0020|0011"
_WITHIN = ("0020|0100", "0020|9241", "0020|0012")  # temporal position, percentage, acquisition
_KIND = "NRRD_kinds[pixel]"
_MOST = 100


@dataclass(frozen=True)
class Phase:
    """One phase of a breath: its name, unique in the sequence, and its image (HU, float32).

    path: the file or folder that holds this phase and no other; None where there is none.
    """

    name: str
    volume: Volume
    path: Path | None = None


def read_phases(
    paths: Sequence[str | Path], *, on_skip: Callable[[str], object] = warnings.warn
) -> list[Phase]:
    """The phases, in the order of the breath.

    paths: one file or DICOM folder a phase, in order; or one path that holds all: a 4-D image, a
    Slicer sequence of volumes (.seq.nrrd), a folder with the DICOM series of one study, a DICOM
    series with all phases, or a folder of images or of DICOM folders, ordered by name.
    on_skip: is called with a sentence that names the DICOM series of a study that are left out:
    averages and projections, and those without a percentage where three or more have one.
    Raises InputError for what cannot be read, fewer than three phases, two series with the same
    percentage, or grids that differ.
    """
    paths = [existing(path) for path in paths]
    if len(paths) == 1:
        path = paths[0]
        phases = _of_folder(path, on_skip) if path.is_dir() else _of_file(path)
    else:
        phases = [_alone(path) for path in paths]
    return checked_phases(phases)


def checked_phases(phases: Sequence[Phase]) -> list[Phase]:
    """The phases, with names of their own. Raises InputError unless they make a sequence."""
    if not 3 <= len(phases) <= _MOST:
        raise InputError(
            f"A breath has from 3 to {_MOST} phases, here are {len(phases)}: give all phases of "
            "one 4DCT (for two images there is `register`)."
        )
    first = phases[0].volume.grid
    for phase in phases[1:]:
        if not phase.volume.grid.matches(first, tolerance=0.1):
            raise InputError(
                f"The phases {phases[0].name} and {phase.name} have different grids: give phases "
                "of one 4DCT, or resample them to one grid."
            )
    names = [phase.name for phase in phases]
    if len({name.casefold() for name in names}) < len(names):  # files are named so
        names = [f"{number:02d}" for number in range(len(names))]
    return [replace(phase, name=name) for name, phase in zip(names, phases, strict=True)]


def _alone(path: Path) -> Phase:
    """The phase that is all of a file or DICOM folder."""
    return Phase(_stem(path), read_volume(path), path)


def _of_file(path: Path) -> list[Phase]:
    frames = _frames(read_image(path, advice="save the phases as .nii.gz or .nrrd"))
    if len(frames) < 2:
        raise InputError(f"{path} holds a single phase: give all of them, or a 4-D image.")
    width = len(str(len(frames) - 1))
    return [
        Phase(f"{number:0{max(width, 2)}d}", checked_volume(frame, f"{path}, frame {number}"))
        for number, frame in enumerate(frames)
    ]


def _frames(image: sitk.Image) -> list[Volume]:
    """The 3-D images in a 4-D one, or in one whose voxels hold a value for each frame."""
    if image.GetDimension() == 4:
        return [Volume.of_image(image[..., k]) for k in range(image.GetSize()[3])]
    kind = image.GetMetaData(_KIND) if image.HasMetaDataKey(_KIND) else ""
    if image.GetDimension() == 3 and kind == "list":  # a Slicer sequence, not a colour image
        array = sitk.GetArrayFromImage(image)  # frames are a voxel's components
        grid = Grid.of_image(image)
        return [Volume(np.ascontiguousarray(array[..., k]), grid) for k in range(array.shape[3])]
    return []


def _of_folder(folder: Path, on_skip: Callable[[str], object]) -> list[Phase]:
    parts = [p for p in folder.iterdir() if not p.name.startswith(".")]
    parts.sort(key=lambda part: counted(part.name))
    files = [p for p in parts if p.is_file() and suffix_of(p) in IMAGES]
    if files:
        return [_alone(file) for file in files]
    series = _series(folder)
    if not series:
        folders = [p for p in parts if p.is_dir()]
        series = [one for part in folders for one in _series(part)]
    if not series:
        raise InputError(f"{folder} holds no images and no DICOM series: give the phases.")
    if len(series) == 1:
        return _split(folder, series[0])
    studies = {_tag(files[0], "0020|000d") for files in series}
    if len(studies) > 1:
        raise InputError(f"{folder} holds {len(studies)} studies: keep the phases of one 4DCT.")
    places = Counter(Path(files[0]).parent for files in series)
    found = []
    for name, files in _ordered(series, on_skip):
        place = Path(files[0]).parent
        own = place if places[place] == 1 else None
        found.append(Phase(name, _volume_of(files, folder), own))
    return found


def _series(folder: Path) -> list[tuple[str, ...]]:
    """The files of each DICOM series in a folder."""
    names = series_in(folder).values()
    return [files for files in names if _tag(files[0], "0008|0060") in ("CT", "")]


def _ordered(
    series: list[tuple[str, ...]], on_skip: Callable[[str], object]
) -> list[tuple[str, tuple[str, ...]]]:
    """(name, files) of the phases of a study, by their percentage, or else by series number."""
    texts = [_tag(files[0], _DESCRIPTION) for files in series]
    numbers = [int(_tag(files[0], _SERIES_NUMBER) or 0) for files in series]
    titles = [
        f"'{text}' (series {number})" if text else f"series {number}"
        for text, number in zip(texts, numbers, strict=True)
    ]
    percents = _percents(texts)
    kept = list(percents) or [k for k, text in enumerate(texts) if not _SUMMARY.search(text)]
    if left := [title for k, title in enumerate(titles) if k not in kept]:
        on_skip(f"Left out, as no single phase of the breath: {', '.join(left)}.")
    holders = {}
    for k, percent in percents.items():
        if percent in holders:
            raise InputError(
                f"{titles[holders[percent]]} and {titles[k]} have the same percentage: keep one "
                "of them, or give one folder a phase, in order."
            )
        holders[percent] = k
    if percents and len({value for value, _ in percents.values()}) == len(percents):
        order = sorted(percents, key=lambda k: percents[k][0])
        return [(f"{percents[k][0]:02.0f}", series[k]) for k in order]
    # Also where breathing in and out share percentages: these don't say where the cycle begins.
    if len({numbers[k] for k in kept}) < len(kept):
        raise InputError(
            "The DICOM series tell no order of the phases (neither a percentage in their "
            "description nor series numbers): give one folder a phase, in order."
        )
    return [(f"{numbers[k]}", series[k]) for k in sorted(kept, key=lambda k: numbers[k])]


def _percents(texts: Sequence[str]) -> dict[int, tuple[float, str]]:
    """(percentage, "in", "ex" or "") by the index of the description that gives it.

    Only where three or more give one, and not all the same; else empty. Averages, projections and
    ranges of percentages are left out; ranges count where the phases are such (0-10%, 10-20%).
    """
    phases = [k for k, text in enumerate(texts) if not _SUMMARY.search(text)]
    single = [k for k in phases if not _RANGE.search(texts[k])]
    for pattern in (_PERCENT, _NUMBER):
        for some in (single, phases):
            found = {k: match for k in some if (match := pattern.search(texts[k]))}
            if len(found) >= 3 and len({match[1] for match in found.values()}) > 1:
                return {k: (float(m[1]), (m[2] or "").lower()) for k, m in found.items()}
    return {}


def _split(folder: Path, files: tuple[str, ...]) -> list[Phase]:
    """The phases of a series that holds them all, told apart by a tag of the slices."""
    for tag in _WITHIN:
        groups = defaultdict(list)
        for file in files:
            groups[_tag(file, tag)].append(file)
        if len(groups) > 1 and "" not in groups and len({len(g) for g in groups.values()}) == 1:
            keys = sorted(groups, key=float)
            return [Phase(key, _volume_of(groups[key], folder)) for key in keys]
    raise InputError(
        f"{folder} holds one DICOM series without phases: give one folder for each phase."
    )


def _volume_of(files: Sequence[str], folder: Path) -> Volume:
    """The slices of a phase as one image. Raises InputError for what `stacked` refuses."""
    if len(files) < 2:
        raise InputError(f"{folder}: a phase has a single slice: export the phases again.")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(stacked(folder, list(files)))
    try:
        return checked_volume(Volume.of_image(reader.Execute()), str(folder))
    except RuntimeError as error:
        raise InputError(f"{folder} cannot be read as DICOM: export it again.") from error


def _tag(file: str, tag: str) -> str:
    reader = _information(file)
    return reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""


def _information(file: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{file} cannot be read as DICOM: export it again.") from error
    return reader


def _stem(path: Path) -> str:
    return path.name.removesuffix(suffix_of(path)) if path.is_file() else path.name
