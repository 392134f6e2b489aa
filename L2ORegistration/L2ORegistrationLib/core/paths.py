"""Paths given by a user: found, recognised, and replaced only by a complete file."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

_COMPOUND = (".nii.gz", ".mrk.json", ".seg.nrrd")


def suffix_of(path: str | Path) -> str:
    """The suffix in lower case, with both parts of ".nii.gz", ".mrk.json" and ".seg.nrrd"."""
    name = Path(path).name.lower()
    return next((s for s in _COMPOUND if name.endswith(s)), Path(name).suffix)


def counted(name: str) -> list:
    """A key that sorts names by the numbers in them: "phase 2" comes before "phase 10"."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if part.isdigit() else part for part in parts]


def existing(path: str | Path) -> Path:
    """The path, with ~ expanded. Raises InputError when nothing is there, or may not be seen."""
    path = Path(path).expanduser()
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist: check the path.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    return path


def checked_suffix(path: str | Path, supported: tuple[str, ...], what: str) -> str:
    """The suffix of the path. Raises InputError, listing the supported ones, for any other."""
    suffix = suffix_of(path)
    if suffix not in supported:
        raise InputError(
            f"{Path(path).name} has no suffix for {what}: use one of {', '.join(supported)}."
        )
    return suffix


def writable_file(path: str | Path) -> Path:
    """The path of a file that can be written, with ~ expanded. Raises InputError if not."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file.")
    check_writable(path.parent)
    return path


def check_writable(folder: Path) -> None:
    """Raise InputError for a folder that is missing, or in which no file can be made."""
    if not folder.is_dir():
        raise InputError(f"The folder {folder} does not exist: create it or choose another one.")
    try:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with tempfile.TemporaryFile(dir=folder):
            pass  # shares and read-only disks refuse also those who have the rights
    except OSError as error:
        raise InputError(
            f"The folder {folder} cannot be written to ({error.strerror}): choose another one."
        ) from error


def made(folder: Path) -> Path:
    """The folder, made if it was missing. Raises InputError when that fails."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be made ({error.strerror}).") from error
    return folder


def checksum(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix, that takes its place on success.

    On any error the temporary file is removed and an older file at `path` stays as it was.
    Raises InputError when the folder is missing or the file cannot be written there.
    """
    path = writable_file(path)
    # Not tempfile: its files are private to the user, and the result would stay so.
    temporary = path.parent / f".{secrets.token_hex(6)}{suffix_of(path)}"
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{path} could not be written ({reason}): close programs that use it, "
            "free some space or choose another folder."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
