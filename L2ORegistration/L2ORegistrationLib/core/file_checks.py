"""What is wrong with a file that ITK would read as it is, or refuse for reasons of its own."""

from __future__ import annotations

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
_META_SIZE = re.compile(rb"^CompressedDataSize = (\d+)", re.MULTILINE)
_META_START = re.compile(rb"^ElementDataFile = LOCAL\n", re.MULTILINE)
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
    needed, length, last = _nifti_bytes(path, image), path.stat().st_size, _stated(path)
    if last is not None and last != needed % 2**32:  # else nothing was cut off
        length, last = sum(map(len, _unpacked(path))), None
    if last is None and length < needed:
        raise InputError(f"{path} {_DAMAGED}")


def is_whole(path: Path, image: sitk.Image) -> bool:
    """Whether a file just written holds all of an image: ITK does not notice every full disk.

    .nii or .nrrd, or gzipped .nii.gz, .nrrd and .mha with the voxels behind the header.
    """
    head = _text_header(path)
    if suffix_of(path) == ".mha":
        size, start = _META_SIZE.search(head), _META_START.search(head)
        whole = start.end() + int(size[1]) if size and start else np.inf
        return path.stat().st_size >= whole
    if suffix_of(path) in (".nii", ".nii.gz"):
        needed = _nifti_bytes(path, image)
    else:
        needed = _values(image) * sitk.GetArrayViewFromImage(image).itemsize
        if b"encoding: raw" in head:
            end = head.find(b"\n\n")
            return end >= 0 and path.stat().st_size >= end + 2 + needed
    stated = _stated(path)
    return path.stat().st_size >= needed if stated is None else stated == needed % 2**32


def ends_complete(path: Path) -> bool:
    """Whether a text file of a transform ends as one does: with a whole line of its grid."""
    lines = path.read_bytes().rsplit(b"\n", 2)
    return len(lines) > 1 and not lines[-1] and lines[-2].startswith(b"FixedParameters:")


def _values(image: sitk.Image) -> float:
    return np.prod(image.GetSize(), dtype=float) * image.GetNumberOfComponentsPerPixel()


def _nifti_bytes(path: Path, image: sitk.Image) -> float:
    """Bytes that a NIfTI file of an image has when unpacked; infinitely many without a header."""
    head = _head(path)
    if len(head) < _NIFTI1_HEADER:
        return np.inf
    order = _byte_order(head)
    (bits,), (start,) = (
        struct.unpack_from(order + k, head, at) for k, at in (("h", 72), ("f", 108))
    )
    return max(start, 352) + _values(image) * bits / 8  # some say 0: after the header


def _stated(path: Path) -> int | None:
    """The length, modulo 2^32, that a gzip file states in its last bytes; None for any other."""
    with open(path, "rb") as file:
        if file.read(2) != _GZIP and suffix_of(path) not in (".nrrd", ".seg.nrrd"):
            return None
        file.seek(max(file.seek(0, os.SEEK_END) - 4, 0))
        return int.from_bytes(file.read(), "little")


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
    head = _head(path)
    order = _byte_order(head)
    (axes,) = struct.unpack_from(f"{order}h", head, 40)
    widths = np.array(struct.unpack_from(f"{order}3f", head, 80)[:axes])
    return bool((np.isfinite(widths) & (widths != 0)).all())


def _head(path: Path) -> bytes:
    """The header of a NIfTI file, or what there is of it."""
    with open(path, "rb") as file:
        head = file.read(_NIFTI1_HEADER)
    return next(_unpacked(path), b"")[:_NIFTI1_HEADER] if head.startswith(_GZIP) else head


def _byte_order(head: bytes) -> str:
    return "<" if int.from_bytes(head[:4], "little") == _NIFTI1_HEADER else ">"


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
