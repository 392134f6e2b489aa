"""What an input consists of on disk, and whether it is still the same: sizes, times, checksums."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from glob import escape, glob
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ..core.errors import InputError
from .table import Row

_HEADERS = (".mhd", ".mha", ".nhdr", ".nrrd")  # images whose voxels may lie in files of their own
_DATA_FILE = re.compile(rb"(?:ElementDataFile\s*[=:]|data ?file:(?!=))\s*(.*)", re.IGNORECASE)
# What systems leave in folders that somebody looks into or copies.
_OF_SYSTEM = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini", re.IGNORECASE)
_HEADER_LINES, _LINE_BYTES = 1000, 4096  # read at most: not all of a large file of another kind


def checksum(path: str) -> str:
    """SHA-256 of a file, or of the names and contents of the files in a folder.

    Where an image keeps its voxels in other files than its header, they follow it in the sum.
    Raises InputError where it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for file in _files(path):
            if Path(path).is_dir():
                digest.update(file.name.encode())
            with open(file, "rb") as content:
                while block := content.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    return digest.hexdigest()


def inputs_state(row: Row) -> dict[str, list | None]:
    """Size in bytes and time of change (ns) of each input's file; None for one that is missing.

    Of a folder the sum of all sizes and the latest time; of an image in several files these two of
    each, as files of voxels that take each other's place are of one size, and may be older.
    """
    found = {}
    for role, path in row.inputs.items():
        try:
            states = [file.stat() for file in _files(path)]
        except OSError:
            states = []
        found[role] = [number for s in states for number in (s.st_size, s.st_mtime_ns)] or None
        if states and Path(path).is_dir():
            found[role] = [sum(s.st_size for s in states), max(s.st_mtime_ns for s in states)]
    return found


def _files(path: str) -> list[Path]:
    """The files that an input consists of."""
    path = Path(path)
    if path.is_dir():
        files = (p for p in path.iterdir() if p.is_file() and not _OF_SYSTEM.fullmatch(p.name))
        return sorted(files, key=lambda p: p.name)  # Windows would sort without case
    return [path, *_data_files(path)] if path.suffix.lower() in _HEADERS else [path]


def _data_files(header: Path) -> list[Path]:
    """The files, if they are there, that a MetaImage or NRRD names; none where it holds its voxels.

    One that is missing is for the reader to complain of.
    """
    with open(header, "rb") as file:
        for line in islice(iter(partial(file.readline, _LINE_BYTES), b""), _HEADER_LINES):
            line = line.strip()
            if named := _DATA_FILE.fullmatch(line):
                paths = (header.parent / name for name in _data_names(header, named[1], file))
                return [path for path in paths if path.is_file()]
            if not line and header.suffix.lower() in (".nhdr", ".nrrd"):
                break  # where the header of a NRRD ends
    return []


def _data_names(header: Path, value: bytes, rest: BinaryIO) -> list[str]:
    """What a header's entry means: a name, a list of them in the lines that follow, or a pattern.

    Of a pattern, such as "slice%03d.raw 1 90 1", all that are there are taken, used or not.
    """
    text = value.decode("utf-8", "surrogateescape")
    if not text or "\0" in text or text.upper() == "LOCAL":
        return []
    if text.split()[0] == "LIST":
        lines = rest.read().decode("utf-8", "surrogateescape").splitlines()
        return [line.strip() for line in lines if line.strip()]
    pattern = re.sub(r"(?:\s+[-+.\d]+)+$", "", text)
    if not re.search(r"%\d*d", pattern):
        return [text]
    return sorted(glob(re.sub(r"%\d*d", "[0-9]*", escape(pattern)), root_dir=header.parent))
