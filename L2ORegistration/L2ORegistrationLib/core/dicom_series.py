"""A folder of DICOM slices as one image, if they are one complete, upright, even stack."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .paths import beyond_itk

_SAME_MM = 1e-3  # positions nearer than this along the stack are one
_FRAME = "0020|0052"
_SPACING, _FRAMES = "0028|0030", "0028|0008"  # several frames have their spacing elsewhere
_STORAGE_CLASS = re.compile(rb"\x02\x00\x02\x00UI..([\d.]+)", re.DOTALL)
_HEAD_BYTES = 512
_ASIDE_MM = 1.0  # a slice may lie this far beside the others


def series_in(folder: Path) -> dict[str, tuple[str, ...]]:
    """The files of each DICOM series of images in this folder, by its UID.

    Raises InputError for an image that is cut short, which GDCM leaves out.
    """
    reader, whole = sitk.ImageSeriesReader, str(folder)
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.GlobalWarningDisplayOff()  # of a folder without any GDCM warns on stderr
    try:
        found = reader.GetGDCMSeriesIDs(whole)
        series = {uid: reader.GetGDCMSeriesFileNames(whole, uid) for uid in found}
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    _check_none_cut_short(folder, [Path(name) for names in series.values() for name in names])
    return series


def _check_none_cut_short(folder: Path, images: list[Path]) -> None:
    """Raise InputError for a file that is empty or of the images' kind, but none of them."""
    if not images:
        return
    names, kind, suffix = {path.name for path in images}, _kind(images[0]), images[0].suffix
    for path in sorted(folder.iterdir()):
        if path.name in names or not path.is_file():
            continue
        empty = suffix and path.suffix == suffix and not path.stat().st_size
        if empty or (kind and _kind(path) == kind):
            raise InputError(
                f"{path} is damaged or cut short: copy or export it again, or move it elsewhere."
            )


def _kind(path: Path) -> bytes:
    """The storage class that the head of a DICOM file names, such as CT; b"" without one."""
    try:
        with open(path, "rb") as file:
            found = _STORAGE_CLASS.search(file.read(_HEAD_BYTES))
    except OSError:  # something of somebody else
        return b""
    return found[1] if found else b""


def series_files(folder: Path) -> list[str]:
    """The slices of the one series in this folder, or its one file; sorted along the stack.

    Raises InputError for none or several series, and for slices that are no complete, upright
    stack of even spacing, each position once, whatever order the files are in.
    """
    files = series_in(folder)
    if not files:
        why = f" ({beyond_itk(folder)})" if beyond_itk(folder) else ""
        raise InputError(f"{folder} holds no DICOM series{why}: give the folder with the slices.")
    if len(files) > 1:
        listed = "; ".join(f"{uid} ({len(names)} files)" for uid, names in files.items())
        raise InputError(
            f"{folder} holds {len(files)} series, move one to its own folder: {listed}"
        )
    (names,) = files.values()
    if len(names) == 1:
        return list(names)
    return stacked(folder, list(names))


def frame_of_reference(path: str | Path) -> str:
    """The frame of reference UID of a DICOM file or folder of one series; "" where there is none.

    What lies in one frame shares its coordinates: a scan, and the structures drawn on it.
    """
    path = Path(path)
    if path.is_dir():
        names = next(iter(series_in(path).values()), ())
    else:
        names = [str(path)] if path.suffix.lower() in (".dcm", "") else []
    if not names:
        return ""
    reader = sitk.ImageFileReader()
    reader.SetFileName(names[0])
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return ""
    return reader.GetMetaData(_FRAME).strip("\0 ") if reader.HasMetaDataKey(_FRAME) else ""


def _slice_geometry(name: str) -> list[float]:
    """Position (3), row and column direction (6), LPS mm, spacing (2) and size (2) of a slice."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{name} cannot be read as DICOM: export it again.") from error
    if not any(reader.HasMetaDataKey(key) for key in (_SPACING, _FRAMES)):
        raise InputError(
            f"{name} has no pixel spacing, so its millimetres are not known: export it again."
        )
    axes = np.reshape(reader.GetDirection(), (3, 3))[:, :2].T.flat
    return [*reader.GetOrigin(), *axes, *reader.GetSpacing()[:2], *reader.GetSize()[:2]]


def stacked(folder: Path, names: list[str]) -> list[str]:
    """The names of slices in this folder in their order along the stack.

    Raises InputError where they are no complete, upright stack of even spacing.
    """
    slices = np.array([_slice_geometry(name) for name in names])
    if np.ptp(slices[:, 3:9], axis=0).max() > 1e-3:
        raise InputError(f"{folder} holds slices of several orientations: keep those of one.")
    if np.ptp(slices[:, 9:], axis=0).max() > 1e-3:
        raise InputError(f"{folder} holds slices of several sizes: keep those of one acquisition.")
    normal = np.cross(slices[0, 3:6], slices[0, 6:9])
    height = slices[:, :3] @ normal
    order = np.argsort(height, kind="stable")
    gaps = np.diff(height[order])
    if gaps.min() < _SAME_MM:
        doubled = int((gaps < _SAME_MM).sum())
        raise InputError(
            f"{folder} holds several slices at one position, at {doubled} of them (two "
            "acquisitions, copies or phases of a 4-D scan?): keep one each."
        )
    spacing = np.median(gaps)
    if np.abs(gaps - spacing).max() > max(0.05 * spacing, 0.01):
        raise InputError(
            f"The slices in {folder} are {gaps.min():.2f} to {gaps.max():.2f} mm apart: add the "
            "missing ones, or resample the series to an even spacing."
        )
    # ITK takes the slices to be stacked along the normal and would shear the patient upright.
    aside = slices[:, :3] - np.outer(height, normal)
    if np.linalg.norm(aside - aside[0], axis=1).max() > _ASIDE_MM:
        raise InputError(
            f"The slices in {folder} are stacked at a slant (gantry tilt): resample them upright."
        )
    return [names[k] for k in order]
