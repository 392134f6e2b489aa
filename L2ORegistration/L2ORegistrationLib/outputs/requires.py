"""pydicom where it is installed, a sentence on how to get it where it is not."""

from __future__ import annotations

import struct
from pathlib import Path
from types import ModuleType
from typing import Any

from ..core.errors import InputError


def pydicom() -> ModuleType:
    """The module. Raises InputError where it is missing; Slicer has it."""
    try:
        import pydicom
    except ImportError as error:
        raise InputError(
            "DICOM objects need pydicom: pip install -e '.[dicom]' in the clone."
        ) from error
    return pydicom


def read_dicom(path: str | Path, **options: Any):
    """The data set of a file; one that is no DICOM has nothing of what its readers ask for.

    options: of pydicom's dcmread. Raises InputError for a file that was cut off.
    """
    module = pydicom()
    try:
        return module.dcmread(path, force=True, **options)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise InputError(f"{path} is damaged or incomplete: copy or export it again.") from error
