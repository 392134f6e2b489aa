"""pydicom where it is installed, a sentence on how to get it where it is not."""

from __future__ import annotations

from types import ModuleType

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
