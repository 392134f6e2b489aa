"""The table of a cohort: a row a pair, from a CSV file or from a folder with a folder a pair.

Nothing is opened here but the table: a scan that is missing or damaged fails its own row later.
"""

from __future__ import annotations

import csv
import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..core.errors import InputError
from ..core.files import IMAGES, MASKS, TRANSFORMS
from ..core.landmarks import READABLE
from ..core.paths import at_home, existing, suffix_of

RESULTS, PAGE = "results.csv", "index.html"  # the files beside the folders of the pairs
# What every file system takes for a folder, but for names that Windows keeps for devices.
_NAME = re.compile(r"[\w][\w .+@=-]{0,119}")
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[1-9¹²³])( *\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One pair: its name, which is also its folder's, and absolute paths; "" where not given.

    fixed, moving: image files or DICOM folders; landmarks come in both images or in none.
    """

    name: str
    fixed: str = ""
    moving: str = ""
    fixed_mask: str = ""
    moving_mask: str = ""
    fixed_landmarks: str = ""
    moving_landmarks: str = ""
    initial_transform: str = ""

    @property
    def inputs(self) -> dict[str, str]:
        """The paths that are given, by role."""
        return {role: path for role, path in asdict(self).items() if role != "name" and path}


ROLES = tuple(field.name for field in fields(Row) if field.name != "name")


def read_table(path: str | Path) -> list[Row]:
    """The rows of a CSV file, or of a folder that holds a folder for each pair.

    CSV: a header with the columns fixed and moving and any of name, fixed_mask, moving_mask,
    fixed_landmarks, moving_landmarks, initial_transform; other columns are left alone. Paths that
    are not absolute start at the table's folder; rows without a name are pair-1, pair-2, ...
    Folder: in each of its folders fixed.* and moving.* (or DICOM folders of these names) and any
    of the other files, named as the columns are; masks may be .seg.nrrd.
    Raises InputError for a table that is not of this kind or names one pair twice, and for a file
    named as a column is, of a kind that is not read there.
    """
    path = existing(path).absolute()
    return checked_rows(_from_folder(path) if path.is_dir() else _from_csv(path), path)


def checked_rows(rows: Iterable[Row | Mapping[str, str]], source: str | Path = "") -> list[Row]:
    """The rows, as Row, if each has a name of its own that a folder can have.

    source: the table's file or folder, where relative paths start; by default the working folder.
    """
    source = Path(source).absolute()
    folder = source.parent if source.is_file() else source
    found, seen = [], {}
    for number, row in enumerate(rows, start=1):
        values = asdict(row) if isinstance(row, Row) else row
        values = {key: str(values.get(key) or "").strip() for key in ("name", *ROLES)}
        # Names in folders of a Mac have their accents as characters of their own.
        name = unicodedata.normalize("NFC", values.pop("name") or f"pair-{number}")
        if not _NAME.fullmatch(name) or name != name.strip(". "):
            raise InputError(
                f"Row {number}: '{name}' cannot be the name of a folder: use letters, digits, "
                "spaces and . _ - + = @ only."
            )
        if _DEVICE.fullmatch(name):
            raise InputError(
                f"Row {number}: Windows has no folders named '{name}': give the pair another name."
            )
        key = name.casefold()
        if key in (RESULTS, PAGE):
            raise InputError(
                f"Row {number}: '{name}' is a file beside the folders of the pairs: give the pair "
                "another name."
            )
        if key in seen:
            raise InputError(
                f"Rows {seen[key]} and {number} are both named '{name}': give each pair a name of "
                "its own."
            )
        seen[key] = number
        paths = {role: str(folder / at_home(p)) for role, p in values.items() if p}
        found.append(Row(name, **paths))
    if not found:
        raise InputError(f"{source} holds no pairs: add a row, or a folder, for each.")
    return found


def _from_csv(path: Path) -> list[dict[str, str]]:
    try:
        text = [s for s in path.read_text(encoding="utf-8-sig").splitlines() if s.strip()]
        lines = list(csv.reader(text, _dialect(text[0] if text else ""), doublequote=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table: save it as CSV in UTF-8.") from error
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    if not {"fixed", "moving"} <= set(header):
        raise InputError(
            f"{path} needs a first line with the columns fixed and moving, and any of name, "
            f"{', '.join(ROLES[2:])}."
        )
    for column in set(header) - {"name", *ROLES}:
        meant = difflib.get_close_matches(column, ROLES, 1, cutoff=0.8)
        if meant:
            raise InputError(f"{path} has a column '{column}': is '{meant[0]}' meant? Rename it.")
    twice = [column for column in ("name", *ROLES) if header.count(column) > 1]
    if twice:
        raise InputError(f"{path} has the column '{twice[0]}' twice: keep one.")
    for number, line in enumerate(lines[1:], start=1):
        if len(line) > len(header):
            raise InputError(
                f"{path}: row {number} has {len(line)} cells, the header {len(header)}: put quotes "
                "round paths that hold a comma."
            )
    return [dict(zip(header, line, strict=False)) for line in lines[1:]]


def _dialect(header: str) -> type[csv.Dialect]:
    try:
        return csv.Sniffer().sniff(header, ",;\t")
    except csv.Error:  # there is one column only
        return csv.excel


def _from_folder(folder: Path) -> list[dict[str, str]]:
    rows = []
    for part in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        row = {"name": part.name}
        unread = {}
        for file in sorted(part.iterdir()):
            suffix = suffix_of(file) if file.is_file() else ""
            role = file.name[: len(file.name) - len(suffix)]
            if role not in ROLES:
                continue
            if file.is_file() and suffix not in _suffixes(role):
                unread[role] = file
                continue
            if role in row:
                raise InputError(
                    f"{part} holds {Path(row[role]).name} and {file.name}: keep one of them."
                )
            row[role] = str(file)
        for role, file in unread.items():
            if role not in row:  # else it belongs to what is read: voxels of .mhd, notes in .json
                raise InputError(
                    f"{file} is not read as {role}: save it as {', '.join(_suffixes(role))}, or "
                    "rename it."
                )
        if "fixed" in row or "moving" in row:
            rows.append(row)
    if not rows:
        raise InputError(
            f"{folder} holds no folders with fixed.* and moving.*: give a CSV table, or a folder "
            "that has one folder for each pair."
        )
    return rows


def _suffixes(role: str) -> tuple[str, ...]:
    if role.endswith("landmarks"):
        return READABLE
    if role.endswith("mask"):
        return MASKS
    return (*TRANSFORMS, *IMAGES) if role == "initial_transform" else IMAGES
