"""EMPIRE10: pairs of thoracic CT with lung masks as .mhd; the challenge keeps its landmarks."""

from __future__ import annotations

from pathlib import Path

from .cases import Case, Entry, image_of, mask_of

PAPER_CASES = ("01", "07", "08", "14", "18", "20", "21", "28")  # those that the paper trains on
ALL_CASES = tuple(f"{i:02d}" for i in range(1, 31))


def pairs(folder: Path) -> list[Entry]:
    """scans/01_Fixed.mhd, scans/01_Moving.mhd and lungMasks of the same names, for 30 cases.

    Several downloads unpacked side by side are searched; the default is the paper's eight cases,
    further ones are read where they are asked for by name.
    """
    return [Entry(name, lambda name=name: _case(folder, name)) for name in ALL_CASES]


def _case(folder: Path, name: str) -> Case:
    files = {
        (kind, side): _find(folder, kind, f"{name}_{side}.mhd")
        for kind in ("scans", "lungMasks")
        for side in ("Fixed", "Moving")
    }
    return Case(
        name,
        image_of(name, files["scans", "Fixed"]),
        image_of(name, files["scans", "Moving"]),
        mask_of(name, files["lungMasks", "Fixed"]),
        mask_of(name, files["lungMasks", "Moving"]),
    )


def _find(folder: Path, kind: str, name: str) -> Path:
    """The file in a folder of this kind at any depth; letter case does not matter."""
    for path in sorted(folder.rglob("*.mhd")):
        if path.name.lower() == name.lower() and path.parent.name.lower() == kind.lower():
            return path
    return folder / kind / name
