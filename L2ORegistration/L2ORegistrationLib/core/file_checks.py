"""What is wrong with a file that ITK would read as it is, or refuse for reasons of its own."""

from __future__ import annotations

import gzip
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .paths import suffix_of

_GZIP = b"\x1f\x8b"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_NIFTI1_HEADER, _NIFTI2_HEADER = 348, 540  # bytes; a file says which in its first four
# ITK stops at such a parameter and takes all of them to be zero.
_NO_NUMBER = re.compile(rb"^\s*(?:Fixed)?Parameters:.*[^-+.\deE\s]", re.MULTILINE)
_DAMAGED = "is damaged or incomplete: copy or download it again."
_HEADER_BYTES = 1 << 20  # of a text header; segmentations list all that they hold there
_META_SPACING = re.compile(rb"^Element(?:Spacing|Size)\s*[=:]", re.MULTILINE)
_NRRD_AXES = re.compile(rb"^dimension:\s*(\d+)", re.MULTILINE | re.IGNORECASE)
_NRRD_SPACING = re.compile(  # not the user's own "spacings:=..."
    rb"^(?:spacings|space directions):(?!=)(.*)", re.MULTILINE | re.IGNORECASE
)
_OF_AXIS = re.compile(rb"\([^)]*\)|[^\s()]+")  # a vector, a number or a word such as none


def check_before_reading(path: Path) -> None:
    """Raise InputError for NIfTI, HDF5 and text files that no reader here takes as they are meant.

    These are NIfTI-2, files cut short, and parameters of transforms that are not numbers.
    """
    suffix = suffix_of(path)
    with open(path, "rb") as file:
        head = file.read(64)
    if suffix in (".h5", ".hdf5"):
        _check_hdf5(path, head)
    elif suffix in (".tfm", ".txt") and _NO_NUMBER.search(path.read_bytes()):
        raise InputError(f"{path} has parameters that are not numbers: export it again.")
    elif suffix == ".nii" and head.startswith(_GZIP):
        raise InputError(f"{path} is compressed, against its name: rename it to .nii.gz.")
    elif suffix in (".nii", ".nii.gz") and head:
        if head.startswith(_GZIP):
            head = next(_unpacked(path), b"")
        if _NIFTI2_HEADER in (int.from_bytes(head[:4], order) for order in ("little", "big")):
            raise InputError(
                f"{path} is a NIfTI-2 file, which ITK does not read: save it as NIfTI-1 or .nrrd."
            )


def check_complete(path: Path, image: sitk.Image) -> None:
    """Raise InputError for a NIfTI file cut short, whose missing voxels ITK takes to be zeros."""
    if suffix_of(path) not in (".nii", ".nii.gz"):
        return
    values = np.prod(image.GetSize(), dtype=float) * image.GetNumberOfComponentsPerPixel()
    start = max(float(image.GetMetaData("vox_offset")), 352)  # some files say 0: after the header
    needed = start + values * int(image.GetMetaData("bitpix")) / 8
    with open(path, "rb") as file:
        packed = file.read(2) == _GZIP
        length = file.seek(0, os.SEEK_END)
        if packed:
            file.seek(-4, os.SEEK_END)
            # Where the last bytes state the right length (modulo 2^32), nothing was cut off.
            length = struct.unpack("<I", file.read(4))[0]
    if packed and length != needed % 2**32:
        length = sum(map(len, _unpacked(path)))
    elif packed:
        length = needed
    if length < needed:
        raise InputError(f"{path} {_DAMAGED}")


def check_spacing(path: Path) -> None:
    """Raise InputError for an image that ITK has read, but whose header gives no voxel spacing.

    ITK takes what is not told to be 1 mm: in NRRD, in MetaImage and, where it is 0, in NIfTI.
    """
    suffix = suffix_of(path)
    if suffix in (".nii", ".nii.gz"):
        known = _nifti_has_spacing(path)
    elif suffix in (".nrrd", ".seg.nrrd", ".nhdr"):
        known = _nrrd_has_spacing(_text_header(path))
    else:
        known = suffix not in (".mha", ".mhd") or _META_SPACING.search(_text_header(path))
    if not known:
        raise InputError(
            f"{path} gives no spacing of its voxels, so its millimetres are not known: export it "
            "again with its spacing."
        )


def _nifti_has_spacing(path: Path) -> bool:
    with open(path, "rb") as file:
        packed = file.read(2) == _GZIP
    with (gzip.open if packed else open)(path, "rb") as file:
        head = file.read(_NIFTI1_HEADER)
    order = "<" if int.from_bytes(head[:4], "little") == _NIFTI1_HEADER else ">"
    (axes,) = struct.unpack_from(f"{order}h", head, 40)
    widths = np.array(struct.unpack_from(f"{order}3f", head, 80)[:axes])
    return bool((np.isfinite(widths) & (widths != 0)).all())


def _nrrd_has_spacing(header: bytes) -> bool:
    """Whether three of its axes, or all of a picture's two, have a spacing or a direction."""
    axes, spacing = _NRRD_AXES.search(header), _NRRD_SPACING.search(header)
    told = _OF_AXIS.findall(spacing[1].lower()) if spacing else []
    known = [one for one in told if b"n" not in one]  # not none, and not nan
    return len(known) >= min(int(axes[1]) if axes else 3, 3)


def _text_header(path: Path) -> bytes:
    """What a file begins with."""
    with open(path, "rb") as file:
        return file.read(_HEADER_BYTES)


def _unpacked(path: Path) -> Iterator[bytes]:
    """What a gzip file holds, piece by piece, up to where it is damaged or something else follows.

    Other bytes may follow the compressed ones, as after a copy in whole blocks.
    """
    with open(path, "rb") as file:
        stream = zlib.decompressobj(wbits=31)
        data = file.read(1 << 20)
        while data:
            try:
                yield stream.decompress(data)
            except zlib.error:
                return
            data = stream.unused_data if stream.eof else b""
            if stream.eof:
                stream = zlib.decompressobj(wbits=31)
                data += file.read(1 << 10)
                if not data.startswith(_GZIP):
                    return
            data += file.read(1 << 20)


def _check_hdf5(path: Path, head: bytes) -> None:
    """HDF5 states its length in its first block: at byte 40 or 28, depending on the version."""
    if not head.startswith(_HDF5):
        raise InputError(f"{path} is no HDF5 file, as its name says: save the transform again.")
    if len(head) < 48:
        raise InputError(f"{path} {_DAMAGED}")
    place = 40 if head[8] < 2 else 28
    if int.from_bytes(head[place : place + 8], "little") > path.stat().st_size:
        raise InputError(f"{path} {_DAMAGED}")
