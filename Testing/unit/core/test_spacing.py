"""An image whose header doesn't say how large its voxels are is not taken for one of 1 mm."""

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import read_labels, read_transform, read_volume

SPACING = (0.7, 0.8, 2.5)
VOXELS = np.arange(24, dtype="<i2").reshape(2, 3, 4)
UNKNOWN = "gives no spacing of its voxels.*export it again"
SPACE = "space: left-posterior-superior\n"


def nrrd(path, fields, dimension=3, sizes="4 3 2", voxels=VOXELS):
    head = f"NRRD0004\n# spacings: 9 9 9\ntype: short\ndimension: {dimension}\nsizes: {sizes}\n"
    head += f"encoding: raw\nendian: little\n{fields}\n"
    path.write_bytes(head.encode() + voxels.tobytes())
    return path


def meta(path, fields):
    head = f"ObjectType = Image\nNDims = 3\n{fields}DimSize = 4 3 2\nElementType = MET_SHORT\n"
    path.write_bytes(f"{head}ElementDataFile = LOCAL\n".encode() + VOXELS.tobytes())
    return path


def nifti(path, widths, order="<"):
    """An image whose header gives these widths (pixdim) of voxels, in this order of bytes."""
    plain = path.with_suffix(".plain.nii")
    image = sitk.GetImageFromArray(VOXELS)
    image.SetSpacing(SPACING)
    sitk.WriteImage(image, str(plain))
    content = bytearray(plain.read_bytes())
    content[80:92] = struct.pack("<3f", *widths)
    content[252:256] = bytes(4)  # no directions, which would be of other spacings
    if order == ">":
        numbers = [(0, "i"), (32, "i"), *((k, "h") for k in (36, *range(40, 56, 2)))]
        numbers += [(k, "h") for k in range(68, 76, 2)]
        numbers += [(k, "f") for k in range(76, 120, 4)]
        for place, kind in numbers:
            struct.pack_into(
                f">{kind}", content, place, *struct.unpack_from(f"<{kind}", content, place)
            )
        content[352:] = VOXELS.astype(">i2").tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def directions(*axes):
    return f"{SPACE}space directions: {' '.join(axes)}\nspace origin: (0,0,0)\n"


@pytest.mark.parametrize(
    "fields",
    [
        "",
        "spacings: 0.7 0.8 nan\n",
        "spacings:=0.7 0.8 2.5\n",  # somebody's own note
        f"{SPACE}space origin: (0,0,0)\n",
        directions("(0.7,0,0)", "(0,0.8,0)", "none"),
    ],
)
def test_nrrd_without_spacing_is_refused(tmp_path, fields):
    with pytest.raises(InputError, match=f"a.nrrd {UNKNOWN}"):
        read_volume(nrrd(tmp_path / "a.nrrd", fields))


@pytest.mark.parametrize(
    "fields",
    [
        "spacings: 0.7 0.8 2.5\n",
        "Spacings:  0.7 0.8 2.5\n",
        directions("(0.7,0,0)", "(0,0.8,0)", "(0,0,2.5)"),
        directions("( 0.7, 0, 0 )", "(0 ,0.8,0)", "(0,0,25e-1)"),
    ],
)
def test_nrrd_with_spacing_is_read(tmp_path, fields):
    volume = read_volume(nrrd(tmp_path / "a.nrrd", fields))
    np.testing.assert_allclose(volume.grid.spacing, SPACING)
    np.testing.assert_array_equal(volume.array, VOXELS)


@pytest.mark.parametrize(
    "fields, known",
    [
        ("spacings: nan 0.7 0.8 2.5\n", True),
        ("spacings: nan 0.7 0.8 nan\n", False),
        (directions("none", "(0.7,0,0)", "(0,0.8,0)", "(0,0,2.5)"), True),
    ],
)
def test_the_axis_of_vectors_needs_no_spacing(tmp_path, fields, known):
    fields += "kinds: vector domain domain domain\n"
    path = nrrd(tmp_path / "a.nrrd", fields, 4, "3 4 3 2", np.full((2, 3, 4, 3), 5, "<i2"))
    if known:
        assert read_transform(path).TransformPoint((0.5, 1.5, 2.5)) == (5.5, 6.5, 7.5)
    else:
        with pytest.raises(InputError, match=UNKNOWN):
            read_transform(path)


def test_metaimage_without_spacing_is_refused(tmp_path):
    for name in ("a.mha", "a.mhd"):
        with pytest.raises(InputError, match=f"{name} {UNKNOWN}"):
            read_volume(meta(tmp_path / name, ""))
    for key in ("ElementSpacing = ", "ElementSize = ", "ElementSpacing: "):
        volume = read_volume(meta(tmp_path / "a.mha", f"{key}0.7 0.8 2.5\n"))
        np.testing.assert_allclose(volume.grid.spacing, SPACING)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_without_spacing_is_refused(tmp_path, name, order):
    for widths in ((0, 0, 0), (0.7, 0.8, 0), (0.7, 0.8, np.nan), (0.7, np.inf, 2.5)):
        for read in (read_volume, read_labels):
            with pytest.raises(InputError, match=f"{name} {UNKNOWN}"):
                read(nifti(tmp_path / name, widths, order))
    volume = read_volume(nifti(tmp_path / name, SPACING, order))
    np.testing.assert_allclose(volume.grid.spacing, SPACING)
    np.testing.assert_array_equal(volume.array, VOXELS)
