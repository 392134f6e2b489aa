"""Whether transforms lead the way that they have to, as the records beside them tell."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import InputError
from ..core.paths import checksum, existing
from .record import Record, Scan, read_record


def doubts_of_start(transform: Path, fixed: Scan, moving: Scan) -> list[str]:
    """Why a transform is no start from fixed to moving: a sentence, none where it may be one."""
    record = read_record(transform)
    if record is None or not _leads(record, moving, fixed):
        return []
    return [
        f"{transform.name} leads from the moving to the fixed scan, its record says: invert it "
        "(l2o-registration invert) to start from it."
    ]


def doubts_of_backward(backward: Path, transform: Path) -> list[str]:
    """Why a transform is no second registration, of exchanged scans: a sentence each.

    Raises InputError where both are the same.
    """
    backward, transform = existing(backward), existing(transform)
    wanted = "give a second registration, of exchanged scans"
    if checksum(backward) == checksum(transform):
        raise InputError(f"{backward} is the same transform as {transform}: {wanted}.")
    back, there = read_record(backward), read_record(transform)
    if back is None:
        return []
    found = []
    if there and _leads(back, there.fixed, there.moving):
        found.append(
            f"{backward.name} leads from the fixed to the moving scan, as {transform.name} does, "
            f"its record says, and not back: {wanted}."
        )
    elif back.inverse and not (there and there.inverse):
        found.append(
            f"{backward.name} is the inverse of a registration, its record says, and agrees with "
            f"it in any case: {wanted}."
        )
    return found


def _leads(record: Record, fixed: Scan, moving: Scan) -> bool:
    """Whether it is surely of a transform from this scan to that one."""
    return fixed.is_one(record.fixed, record.moving) and moving.is_one(record.moving, record.fixed)
