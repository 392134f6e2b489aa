"""A case: two scans of one patient, read when they are needed, with all that is known of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..core.errors import InputError
from ..core.files import read_mask, read_volume
from ..core.geometry import Grid, Volume
from ..core.landmarks import read_landmarks
from ..core.measures import paired

_LONGEST_HEADER = 1 << 20  # bytes that a NIfTI file holds besides its voxels
Points = tuple[np.ndarray, np.ndarray]  # (N, 3) in fixed and (N, 3) in moving, LPS mm, row by row


@dataclass(frozen=True)
class Case:
    """One pair of a data set.

    name: as the data set calls it; fixed, moving: read the image, HU; fixed_mask, moving_mask:
    read the lung mask (None: none comes with the data, find the lungs automatically); landmarks:
    placed by experts, for measuring; keypoints: found automatically, for training; labels: read the
    label map of each image (fixed, moving), such as lobes, for measuring.
    """

    name: str
    fixed: Callable[[], Volume]
    moving: Callable[[], Volume]
    fixed_mask: Callable[[], Volume] | None = None
    moving_mask: Callable[[], Volume] | None = None
    landmarks: Points | None = None
    keypoints: Points | None = None
    labels: tuple[Callable[[], Volume], Callable[[], Volume]] | None = None


@dataclass(frozen=True)
class Entry:
    """A case that a folder should hold: its name, and how to check its files and make the Case."""

    name: str
    make: Callable[[], Case]


def image_grid(path: Path) -> Grid:
    """The grid of an image file, from its header. Raises InputError where the file is no image."""
    return Grid.of_image(_header(path))


def image_of(name: str, path: Path) -> Callable[[], Volume]:
    """Reads this image of case `name`; the header and the size of the file are checked now."""
    _check_complete(path)
    return _named(name, lambda: read_volume(path))


def mask_of(name: str, path: Path) -> Callable[[], Volume]:
    """Reads this lung mask of case `name`; the header and the size of the file are checked now."""
    _check_complete(path)
    return _named(name, lambda: read_mask(path))


def labels_of(name: str, fixed: Path, moving: Path) -> tuple[Callable[[], Volume], ...] | None:
    """Reads the label maps of case `name`; None where there are none.

    Raises InputError where only one is there, and for what `image_of` refuses.
    """
    if not fixed.is_file() and not moving.is_file():
        return None
    return image_of(name, fixed), image_of(name, moving)


def points_of(fixed: Path, moving: Path, fixed_grid: Grid, moving_grid: Grid) -> Points:
    """Corresponding points (N, 3) and (N, 3), LPS mm; the grids are those of their images.

    Paired as everywhere, by `measures.paired`. Raises InputError for points outside their image.
    """
    grids = fixed_grid, moving_grid
    read = [read_landmarks(required(path), grid) for path, grid in zip((fixed, moving), grids)]
    if not all(landmarks.labelled for landmarks in read):
        matching([landmarks.points for landmarks in read], fixed, moving)
    return paired(*read, *grids)[0]


def matching(points: Points, fixed: Path, moving: Path) -> Points:
    """The points. Raises InputError where the two files don't hold as many."""
    if len(points[0]) != len(points[1]):
        raise InputError(
            f"{fixed} has {len(points[0])} points but {moving.name} {len(points[1])}: "
            "one of them is damaged, copy both again."
        )
    return points


def required(path: Path) -> Path:
    """The path. Raises InputError where there is no such file."""
    if not path.is_file():
        raise InputError(f"{path} is missing.")
    return path


@contextmanager
def naming(case: str):
    """Put the name of the case before the message of an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"Case {case}: {error}") from error


def _named(case: str, read: Callable[[], Volume]) -> Callable[[], Volume]:
    def reader() -> Volume:
        with naming(case):
            return read()

    return reader


def _header(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(required(path)))
    try:
        reader.ReadImageInformation()
        Grid.of_image(reader)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} is damaged or not a 3-D image: copy it again.") from error
    return reader


def _check_complete(path: Path) -> None:
    """Notice a file cut short without reading it: by the length that gzip notes at its end."""
    reader = _header(path)
    if path.name.endswith(".nii.gz"):
        bits = int(reader.GetMetaData("bitpix")) * int(np.prod(reader.GetSize(), dtype=np.int64))
        with open(path, "rb") as file:
            file.seek(-4, 2)
            noted = int.from_bytes(file.read(4), "little")
        extra = (noted - bits // 8) % 2**32  # gzip counts modulo 2^32
        if extra > _LONGEST_HEADER:
            raise InputError(f"{path} is damaged or incomplete: copy it again.")
    elif path.suffix.lower() == ".mhd":
        _check_raw(path)


def _check_raw(header: Path) -> None:
    """The file of voxels that a .mhd names is there and, if not compressed, long enough."""
    fields = dict(
        (part.strip() for part in line.split("=", 1))
        for line in header.read_text(encoding="utf-8", errors="replace").splitlines()
        if "=" in line
    )
    name = fields.get("ElementDataFile", "")
    if name.upper() in ("", "LOCAL", "LIST"):
        return
    data = required(header.parent / name)
    if fields.get("CompressedData", "False").lower() == "true":
        return
    size = {"MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_DOUBLE": 8}
    voxels = np.prod([int(n) for n in fields["DimSize"].split()], dtype=np.int64)
    if data.stat().st_size < voxels * size.get(fields.get("ElementType", ""), 4):
        raise InputError(f"{data} is shorter than {header.name} says: copy it again.")
