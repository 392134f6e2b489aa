"""DIR-Lab: ten 4DCT and ten COPDgene cases, raw volumes with 300 expert landmarks each.

Sizes, spacings and conventions are those that DIR-Lab publishes. Volumes are little-endian 16-bit
integers, x fastest, HU + 1024 (copies in plain HU are told apart by their air). Voxel (1, 1, 1) is
the right, anterior, superior corner. So x runs to the patient's left and y to the back, as LPS
does, and z from head to foot, against it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.geometry import Grid, Volume
from .cases import Case, Entry, naming, points_of, required

STORED_OFFSET = 1024  # stored value - HU
AIR_AND_LUNG_HU = np.array((-1100, -600))  # most of a chest scan
_DOWNWARD = (1, 0, 0, 0, 1, 0, 0, 0, -1)


@dataclass(frozen=True)
class Geometry:
    """Voxels along (x, y, z) and mm along (x, y, z) of a published case."""

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def grid(self) -> Grid:
        """The volume in LPS, its first voxel at the origin (DIR-Lab states no position)."""
        return Grid(self.size, self.spacing, direction=_DOWNWARD)


FOUR_D = {
    f"case{i}": Geometry((n, n, slices), (mm, mm, 2.5))
    for i, (n, slices, mm) in enumerate(
        (
            (256, 94, 0.97),
            (256, 112, 1.16),
            (256, 104, 1.15),
            (256, 99, 1.13),
            (256, 106, 1.10),
            (512, 128, 0.97),
            (512, 136, 0.97),
            (512, 128, 0.97),
            (512, 128, 0.97),
            (512, 120, 0.97),
        ),
        start=1,
    )
}

COPD = {
    f"copd{i}": Geometry((512, 512, slices), (mm, mm, 2.5))
    for i, (slices, mm) in enumerate(
        (
            (121, 0.625),
            (102, 0.645),
            (126, 0.652),
            (126, 0.590),
            (131, 0.647),
            (119, 0.633),
            (112, 0.625),
            (115, 0.586),
            (116, 0.664),
            (135, 0.742),
        ),
        start=1,
    )
}


def four_d(folder: Path, geometries: dict[str, Geometry] | None = None) -> list[Entry]:
    """DIR-Lab 4DCT: maximum inhalation T00 is fixed, maximum exhalation T50 is moving.

    Files are found by name below `folder`, as unpacked (Case1Pack/Images/case1_T00_s.img,
    Case1Pack/ExtremePhases/Case1_300_T00_xyz.txt; letters' case and endings vary between packs).
    """
    files = _Files(folder)

    def make(name: str, geometry: Geometry) -> Case:
        phases = ("00", "50")
        images = [rf"{name}_T{p}(-?_?s\w*)?\.img" for p in phases]
        points = [rf"{name}_(dirlab)?300_T{p}_xyz\.txt" for p in phases]
        return _case(
            name,
            geometry,
            [files.find(i, f"{name}_T{p}.img") for i, p in zip(images, phases)],
            [
                files.find(i, f"{name}_300_T{p}_xyz.txt")
                for i, p in zip(points, phases, strict=True)
            ],
        )

    return _entries(geometries or FOUR_D, make)


def copd(folder: Path, geometries: dict[str, Geometry] | None = None) -> list[Entry]:
    """DIR-Lab COPDgene: inspiration iBHCT is fixed, expiration eBHCT is moving.

    Files are found by name below `folder`: copd1_iBHCT.img, copd1_300_iBH_xyz_r1.txt and so on.
    """
    files = _Files(folder)

    def make(name: str, geometry: Geometry) -> Case:
        return _case(
            name,
            geometry,
            [files.find(rf"{name}_{b}BHCT\.img", f"{name}_{b}BHCT.img") for b in "ie"],
            [
                files.find(rf"{name}_300_{b}BH_xyz_r1\.txt", f"{name}_300_{b}BH_xyz_r1.txt")
                for b in "ie"
            ],
        )

    return _entries(geometries or COPD, make)


class _Files:
    """The files below a folder, found by their names whatever folder or letter case they have."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".img", ".txt"))

    def find(self, pattern: str, shown: str) -> Path:
        matches = (p for p in self.paths if re.fullmatch(pattern, p.name, re.IGNORECASE))
        return next(matches, self.folder / shown)


def _entries(geometries: dict[str, Geometry], make) -> list[Entry]:
    return [Entry(n, lambda n=n, g=g: make(n, g)) for n, g in geometries.items()]


def _case(name: str, geometry: Geometry, images: list[Path], landmarks: list[Path]) -> Case:
    expected = 2 * int(np.prod(geometry.size))
    for path in images:
        length = required(path).stat().st_size
        if length != expected:
            raise InputError(
                f"{path} has {length} bytes, but {' x '.join(map(str, geometry.size))} voxels of "
                f"16 bits need {expected}: copy or unpack it again."
            )

    def reader(path: Path):
        def read() -> Volume:
            with naming(name):
                return read_raw(path, geometry)

        return read

    grid = geometry.grid
    points = points_of(*landmarks, grid, grid)
    return Case(name, reader(images[0]), reader(images[1]), landmarks=points)


def read_raw(path: Path, geometry: Geometry) -> Volume:
    """The volume in HU, float32, slices from foot to head so that the grid is aligned with LPS.

    Voxels that the scanner did not reconstruct keep their low values (below -1024 HU).
    """
    try:
        stored = np.fromfile(path, dtype="<i2").reshape(geometry.grid.shape)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: copy or unpack it again.") from error
    grid = geometry.grid
    foot = grid.to_world((0, 0, grid.size[2] - 1))
    array = np.ascontiguousarray(stored[::-1], dtype=np.float32)
    if _count(stored, AIR_AND_LUNG_HU + STORED_OFFSET) >= _count(stored, AIR_AND_LUNG_HU):
        array -= STORED_OFFSET
    return Volume(array, Grid(grid.size, grid.spacing, tuple(foot)))


def _count(values: np.ndarray, span: np.ndarray) -> int:
    return np.count_nonzero((values >= span[0]) & (values < span[1]))
