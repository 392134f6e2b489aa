"""Files of every usual format in, the same out: images, masks, transforms, landmarks; LPS mm."""

from __future__ import annotations

import gzip
import locale
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .dicom_series import series_files
from .errors import InputError
from .file_checks import (
    check_before_reading,
    check_complete,
    check_spacing,
    ends_complete,
    is_whole,
)
from .geometry import DisplacementField, Grid, Volume, leaves
from .landmarks import Landmarks, read_landmarks, write_landmarks
from .masks import marked
from .paths import atomic, beyond_itk, checked_suffix, existing, suffix_of

__all__ = [
    "Landmarks",
    "atomic",
    "checked_transform",
    "checked_volume",
    "grid_of",
    "read_image",
    "read_labels",
    "read_landmarks",
    "read_mask",
    "read_transform",
    "read_volume",
    "write_image",
    "write_landmarks",
    "write_transform",
    "write_volume",
]

IMAGES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
MASKS = (*IMAGES, ".seg.nrrd")
TRANSFORMS = (".h5", ".hdf5", ".tfm", ".txt", ".mat")
_SHORT = "the file is too short"
WRITABLE_IMAGES = (".nii", ".nii.gz", ".nrrd", ".mha")
WRITABLE_TRANSFORMS = (".h5", ".tfm", *WRITABLE_IMAGES)

# NIfTI's code for displacements in RAS mm; ITK and Slicer turn such vectors to LPS on reading.
_NIFTI_DISPLACEMENT = 1006
# In messages of ITK: the system's last error, whatever that was of, and the rows of matrices.
_NO_REASON = re.compile(r"Reason: .*|( to)?[-+.\de\s]*")


def read_volume(path: str | Path) -> Volume:
    """The scalar 3-D image in a file, or the one DICOM series in a folder, as stored (HU).

    Raises InputError for a file that is missing or unreadable, an image that is not 3-D or has
    several values per voxel, a DICOM folder that holds not exactly one series, or one with missing
    or doubled slices or a tilted gantry, and for what checked_volume refuses.
    """
    return checked_volume(Volume.of_image(_image(path)), str(path))


def checked_volume(volume: Volume, name: str = "The image") -> Volume:
    """The volume in int16 where it is so, as CT mostly is (half the memory), else in float32.

    The smallest finite value takes the place of NaN and infinite voxels. Raises InputError when
    more than half of the voxels are so, or all have the same value.
    """
    array = volume.array
    if array.dtype != np.int16:
        array = array.astype(np.float32, copy=False)
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):  # NaN is passed on by both
        finite = np.isfinite(array)
        if finite.mean() < 0.5:
            raise InputError(f"{name} is mostly made of NaN or infinite voxels: export it again.")
        array = np.where(finite, array, array[finite].min())
        low, high = array.min(), array.max()
    if low == high:
        raise InputError(f"{name} has the same value everywhere: is it the right image?")
    return Volume(array, volume.grid)


def read_mask(path: str | Path, labels: Collection[int] | None = None) -> Volume:
    """A binary mask, bool: what `masks.marked` finds in the scalar 3-D image, or these labels.

    Raises InputError as read_volume and `masks.marked` do, and for a mask without a voxel.
    """
    mask = read_labels(path)
    array = marked(mask.array, labels, f"The mask {path}")
    if not array.any():
        raise InputError(f"The mask {path} is empty: draw it or leave it out.")
    return Volume(array, mask.grid)


def read_labels(path: str | Path) -> Volume:
    """A scalar 3-D image with its values as they are stored; InputError as for read_volume."""
    return Volume.of_image(_image(path))


def read_image(
    path: str | Path, what: str = "an image", advice: str = "save it as .nii.gz or .nrrd"
) -> sitk.Image:
    """The image in a file as SimpleITK reads it, of any dimension and number of values per voxel.

    what, advice: for the message, what the file should hold and how to get one that does.
    Raises InputError for a file that is missing, unreadable or cut short, and for one that doesn't
    tell how large its voxels are.
    """
    path = existing(path)
    with _explained(f"{path} cannot be read as {what}", advice):
        check_before_reading(path)
        image = sitk.ReadImage(str(path))
        check_complete(path, image)
        check_spacing(path)
    return image


def grid_of(path: str | Path) -> Grid | None:
    """The grid of a 3-D image, as the header of its file says; None for anything else."""
    if Path(path).is_dir():  # HDF5, which ITK asks, would complain at length on stderr
        return None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with _plain_numbers():
            reader.ReadImageInformation()
        return Grid.of_image(reader)
    except (RuntimeError, ValueError):
        return None


def write_volume(volume: Volume, path: str | Path, compressed: bool = True) -> None:
    """Write .nii .nii.gz .nrrd .mha, all or nothing; a bool array becomes 8-bit."""
    checked_suffix(path, WRITABLE_IMAGES, "an image")
    with atomic(path) as temporary:
        write_image(volume.to_image(), temporary, path, compressed)


def write_image(
    image: sitk.Image, temporary: Path, path: str | Path, compressed: bool = True
) -> None:
    """Write it to the temporary file that `atomic` gives for this path.

    Raises InputError, naming the path, when that fails.
    """
    with _explained(f"{path} could not be written", "is there space left?"):
        sitk.WriteImage(image, str(temporary), useCompression=compressed)
        if not is_whole(temporary, image):
            raise RuntimeError(_SHORT)


def read_transform(path: str | Path) -> sitk.Transform:
    """The transform from fixed to moving points (LPS mm) in a file.

    .h5 .hdf5 .tfm .txt .mat: what SimpleITK, Slicer, ANTs and ITK write. The image formats:
    displacement fields in LPS mm on the fixed side (NIfTI of intent 1006: in RAS, as it says).
    Raises InputError for other files, for fields of the inverse direction (Slicer's "displacement
    field type:=modeling") and for what `checked_transform` refuses.
    """
    path = existing(path)
    suffix = checked_suffix(path, (*TRANSFORMS, *IMAGES), "a transform")
    if suffix in IMAGES:
        return _field_of_image(path)
    try:
        check_before_reading(path)
        with _plain_numbers():
            transform = sitk.ReadTransform(str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except RuntimeError as error:
        raise InputError(_why_no_transform(path, str(error))) from error
    return checked_transform(transform, str(path))


def checked_transform(transform: sitk.Transform, name: str = "The transform") -> sitk.Transform:
    """The transform. Raises InputError unless it is 3-D, holds something and only finite numbers.

    An empty composite is refused: it is what is left when parts could not be saved.
    """
    if transform.GetDimension() != 3:
        raise InputError(f"{name} is {transform.GetDimension()}-D: give a 3-D one.")
    parts = list(leaves(transform))
    if not parts:
        raise InputError(f"{name} is an empty composite, it holds no transform: save it again.")
    for part in parts:
        if part.GetTransformEnum() == sitk.sitkDisplacementField:
            field = sitk.DisplacementFieldTransform(part).GetDisplacementField()
            values = sitk.GetArrayViewFromImage(field)
        else:
            values = (*part.GetParameters(), *part.GetFixedParameters())
        if not np.isfinite(values).all():
            raise InputError(f"{name} has displacements that are not numbers: export it again.")
    return transform


def write_transform(field: DisplacementField, path: str | Path) -> None:
    """Write one displacement-field transform, all or nothing: .h5 .tfm .nrrd .mha .nii .nii.gz.

    SimpleITK and Slicer read all of them as the map from fixed points to where they lie in moving
    (NIfTI: SimpleITK from 2.4, which follows its intent code). Raises InputError for a grid with
    sheared axes, which these formats cannot hold.
    """
    suffix = checked_suffix(path, WRITABLE_TRANSFORMS, "a transform")
    axes = np.reshape(field.grid.direction, (3, 3))
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        raise InputError("The axes of the field are sheared: resample it to an upright grid first.")
    with atomic(path) as temporary:
        if suffix in (".h5", ".tfm"):
            with _explained(f"{path} could not be written", "is there space left?"):
                sitk.WriteTransform(field.to_transform(), str(temporary))
                if suffix == ".tfm" and not ends_complete(temporary):
                    raise RuntimeError(_SHORT)
        elif suffix in (".nii", ".nii.gz"):
            _write_nifti_field(field, temporary, path)
        else:
            image = sitk.Cast(field.to_image(), sitk.sitkVectorFloat32)
            image.SetMetaData("intent_code", str(_NIFTI_DISPLACEMENT))
            image.SetMetaData("displacement field type", "resampling")
            write_image(image, temporary, path)


def _image(path: str | Path) -> sitk.Image:
    path = existing(path)
    return _dicom_series(path) if path.is_dir() else _scalar_image(path)


def _scalar_image(path: Path) -> sitk.Image:
    """The 3-D image with one real value per voxel in this file."""
    image = read_image(path)
    components, size = image.GetNumberOfComponentsPerPixel(), image.GetSize()
    if components != 1:
        raise InputError(
            f"{path} has {components} values per voxel (colour or vectors): "
            "give an image with one value per voxel."
        )
    if any(n > 1 for n in size[3:]):
        raise InputError(
            f"{path} holds {int(np.prod(size[3:]))} frames of size {size[:3]}: save one of them."
        )
    if len(size) < 3 or min(size[:3]) < 2:
        raise InputError(
            f"{path} is a single slice of size {size}: give a 3-D image, or the folder of a series."
        )
    while image.GetDimension() > 3:
        image = image[..., 0]
    return image


def _dicom_series(folder: Path) -> sitk.Image:
    """The one DICOM series in this folder."""
    with _explained(f"{folder} cannot be read as DICOM", "export it again"):
        names = series_files(folder)
        if len(names) == 1:
            return _scalar_image(Path(names[0]))  # raises unless it is a multi-frame file
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(names)
        image = reader.Execute()
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{folder} holds colour pictures: give an image with one value per voxel.")
    return image


def _field_of_image(path: Path) -> sitk.Transform:
    image = read_image(path, "a transform", "save it as .h5")
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 3:
        raise InputError(
            f"{path} is an image, not a displacement field: that has three values per voxel in 3-D."
        )
    about = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    if about.get("displacement field type", "resampling").lower() == "modeling":
        raise InputError(
            f"{path} says where moving points go (a modeling field), the inverse of what is needed:"
            " invert the transform in Slicer and save it again."
        )
    if about.get("intent_name", "").startswith("NREG"):
        raise InputError(
            f"{path} is a NiftyReg transformation: save it as .h5 with Slicer or SimpleITK first."
        )
    field = sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))
    return checked_transform(field, str(path))


def _why_no_transform(path: Path, error: str) -> str:
    """A sentence for what ITK says of a transform file that it cannot read."""
    unknown = re.search(r'Could not create an instance of "(\w+?)(?:_(?:double|float).*)?"', error)
    if unknown is None:
        why = f" ({beyond_itk(path)})" if beyond_itk(path) else ""
        return (
            f"{path} cannot be read as a transform{why}: save it as .h5 with Slicer or SimpleITK."
        )
    return (
        f"{path} holds a {unknown[1]}, which only the program that made it can apply: convert it "
        "to a displacement field there (in Slicer: Transforms, Convert) and save that."
    )


def _write_nifti_field(field: DisplacementField, temporary: Path, path: str | Path) -> None:
    """SimpleITK cannot write the intent: write RAS vectors as plain ones, then set it by hand."""
    ras = DisplacementField(field.array * np.float32([-1, -1, 1]), field.grid)
    write_image(sitk.Cast(ras.to_image(), sitk.sitkVectorFloat32), temporary, path)
    packed = suffix_of(temporary) == ".nii.gz"
    content = temporary.read_bytes()
    content = bytearray(gzip.decompress(content) if packed else content)
    content[68:70] = np.int16(_NIFTI_DISPLACEMENT).tobytes()  # intent_code of the NIfTI-1 header
    temporary.write_bytes(gzip.compress(content, compresslevel=4) if packed else content)


@contextmanager
def _explained(what: str, advice: str) -> Iterator[None]:
    """Turn an exception of ITK into an InputError with the reason that its last lines give.

    Also one of the system, such as for a folder in place of a file.
    """
    try:
        with _plain_numbers():
            yield
    except OSError as error:
        raise InputError(f"{what} ({error.strerror or error}): {advice}") from error
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if not _NO_REASON.fullmatch(line)]
        reason = (lines or ["no reason is given"])[-1].split("): ", 1)[-1]
        reason = reason.removeprefix("ITK ERROR: ").removeprefix("sitk::ERROR: ")
        reason = beyond_itk(what) or reason  # which would be that there is no such file
        raise InputError(f"{what} ({reason}): {advice}") from error


@contextmanager
def _plain_numbers() -> Iterator[None]:
    """Numbers in files have a point, whatever the user's language writes.

    Under a locale with a comma, ITK's NRRD reader takes a spacing of 2.5 to be 2.
    """
    before = locale.setlocale(locale.LC_NUMERIC)
    locale.setlocale(locale.LC_NUMERIC, "C")
    try:
        yield
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)
