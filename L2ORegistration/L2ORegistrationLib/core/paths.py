"""Paths given by a user: found, recognised, and replaced only by a complete file."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError

_COMPOUND = (".nii.gz", ".mrk.json", ".seg.nrrd")
_UTF8 = 65001  # as a code page of Windows
_PATIENCE = (0.05, 0.1, 0.2, 0.4, 0.8)  # s, between attempts at a file in use on Windows


def suffix_of(path: str | Path) -> str:
    """The suffix in lower case, with both parts of ".nii.gz", ".mrk.json" and ".seg.nrrd"."""
    name = Path(path).name.lower()
    return next((s for s in _COMPOUND if name.endswith(s)), Path(name).suffix)


def counted(name: str) -> list:
    """A key that sorts names by the numbers in them: "phase 2" comes before "phase 10"."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if part.isdigit() else part for part in parts]


def at_home(path: str | Path) -> Path:
    """The path, where a leading ~ means a user's home; a file may be called ~1.nii, too."""
    path = Path(path)
    if sys.platform == "win32" and path.parts[:1] != ("~",):  # any name would be a user's there
        return path
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such user
        return path


def existing(path: str | Path) -> Path:
    """The path, with ~ expanded. Raises InputError when nothing is there, or may not be seen."""
    path = at_home(path)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist: check the path.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    return path


def beyond_itk(path: str | Path) -> str:
    """Why ITK doesn't find a path that is there, in a few words; empty where it does.

    On Windows it knows ASCII alone, but in programs that run in UTF-8, as Slicer does.
    """
    if sys.platform != "win32" or str(path).isascii():
        return ""
    utf8 = ctypes.windll.kernel32.GetACP() == _UTF8
    return "" if utf8 else "on Windows ITK opens no path with letters such as \u00e4"


def checked_suffix(path: str | Path, supported: tuple[str, ...], what: str) -> str:
    """The suffix of the path. Raises InputError, listing the supported ones, for any other."""
    suffix = suffix_of(path)
    if suffix not in supported:
        raise InputError(
            f"{Path(path).name or path} has no suffix for {what}: use one of "
            f"{', '.join(supported)}."
        )
    return suffix


def writable_file(path: str | Path) -> Path:
    """The path of a file that can be written, with ~ expanded. Raises InputError if not."""
    path = at_home(path)
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
        # Shares and read-only disks refuse also those who have the rights. Not tempfile: on Windows
        # it takes a refusal for a name that is taken, and tries on for hours.
        trial = _unused(folder)
        trial.touch(exist_ok=False)
        _patiently(trial.unlink)
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
    temporary = _unused(path.parent, suffix_of(path))
    try:
        yield temporary
        _patiently(os.replace, temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{path} could not be written ({reason}): close programs that use it, "
            "free some space or choose another folder."
        ) from error
    finally:
        with suppress(OSError):  # what is wrong with the path itself is the news
            _patiently(temporary.unlink, True)


def _unused(folder: Path, suffix: str = "") -> Path:
    """A path in this folder that nobody has; most programs don't show it."""
    return folder / f".{secrets.token_hex(6)}{suffix}"


def _patiently(change: Callable, *arguments: object) -> None:
    """Replace or delete a file; where Windows refuses it, try again for a second and a half.

    There neither can be done while anybody reads the file, as virus scanners do with every new one.
    """
    for pause in _PATIENCE if sys.platform == "win32" else ():
        try:
            change(*arguments)
            return
        except PermissionError:
            time.sleep(pause)
    change(*arguments)
