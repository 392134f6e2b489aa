"""Images and masks survive every format; bad files are refused, and a written file is whole."""

import gzip
import locale
import os
import shutil
import subprocess

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import (
    atomic,
    checked_volume,
    read_mask,
    read_transform,
    read_volume,
    write_transform,
    write_volume,
)
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.outputs.labels import read_regions, warp_label_file
from oblique import OBLIQUE


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_written_volumes_are_read_back(tmp_path, ct, suffix):
    path = tmp_path / f"ct{suffix}"
    write_volume(ct, path)
    again = read_volume(path)
    np.testing.assert_array_equal(again.array, ct.array)
    assert again.array.dtype == ct.array.dtype
    assert again.grid.matches(ct.grid)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_headers_with_separate_data_are_read(tmp_path, ct, suffix):
    sitk.WriteImage(ct.to_image(), str(tmp_path / f"ct{suffix}"))
    again = read_volume(tmp_path / f"ct{suffix}")
    np.testing.assert_array_equal(again.array, ct.array)
    assert again.grid.matches(ct.grid)


def test_four_dimensions_with_a_single_frame_are_read(tmp_path, ct):
    sitk.WriteImage(sitk.JoinSeries([ct.to_image()]), str(tmp_path / "one.nii.gz"))
    again = read_volume(tmp_path / "one.nii.gz")
    np.testing.assert_array_equal(again.array, ct.array)
    assert again.grid.matches(ct.grid)
    sitk.WriteImage(sitk.JoinSeries([ct.to_image()] * 3), str(tmp_path / "three.nii.gz"))
    with pytest.raises(InputError, match="3 frames"):
        read_volume(tmp_path / "three.nii.gz")


def test_whole_numbers_of_16_bits_stay_so_and_others_become_float32(tmp_path, ct):
    for stored, read in ((np.int16, np.int16), (np.uint16, np.float32), (np.int32, np.float32)):
        array = (ct.array + 2000).astype(stored)
        write_volume(Volume(array, ct.grid), tmp_path / "ct.nrrd")
        again = read_volume(tmp_path / "ct.nrrd").array
        assert again.dtype == read
        np.testing.assert_array_equal(again, array)


def test_some_nan_voxels_become_the_smallest_value(tmp_path):
    array = np.arange(27, dtype=np.float32).reshape(3, 3, 3) - 5
    array[2, 2] = [np.nan, np.inf, -np.inf]
    write_volume(Volume(array, Grid((3, 3, 3))), tmp_path / "ct.mha")
    again = read_volume(tmp_path / "ct.mha").array
    assert again[2, 2].tolist() == [-5, -5, -5]
    np.testing.assert_array_equal(again.ravel()[:24], array.ravel()[:24])
    assert np.isnan(array[2, 2, 0])  # what was given is not changed

    array[:2] = np.nan
    with pytest.raises(InputError, match="mostly made of NaN"):
        checked_volume(Volume(array, Grid((3, 3, 3))))


def test_pictures_vectors_slices_and_constant_images_are_refused(tmp_path, field):
    grid = Grid((4, 4, 4))
    write_volume(Volume(np.zeros(grid.shape, np.int16), grid), tmp_path / "zero.nrrd")
    with pytest.raises(InputError, match="same value everywhere"):
        read_volume(tmp_path / "zero.nrrd")
    write_transform(field, tmp_path / "field.nrrd")
    with pytest.raises(InputError, match="3 values per voxel"):
        read_volume(tmp_path / "field.nrrd")
    sitk.WriteImage(sitk.Image((4, 4), sitk.sitkInt16), str(tmp_path / "flat.mha"))
    with pytest.raises(InputError, match="single slice"):
        read_volume(tmp_path / "flat.mha")
    sitk.WriteImage(sitk.Image((4, 4, 1), sitk.sitkInt16), str(tmp_path / "thin.nii"))
    with pytest.raises(InputError, match="single slice"):
        read_volume(tmp_path / "thin.nii")


@pytest.mark.parametrize("read", [read_volume, read_mask, read_transform])
def test_missing_empty_and_broken_files_are_refused(tmp_path, ct, read):
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "missing.nii.gz")
    (tmp_path / "empty.nrrd").touch()
    with pytest.raises(InputError, match="empty.nrrd cannot be read"):
        read(tmp_path / "empty.nrrd")
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
        write_volume(ct, tmp_path / f"ct{suffix}")
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes((tmp_path / f"ct{suffix}").read_bytes()[:-50])
        with pytest.raises(InputError, match=cut.name):
            read(cut)


@pytest.mark.parametrize(
    "old, new, said",
    [
        (b"", b"", r"\(File cannot be read"),  # cut short: the system has no complaint of it
        (
            b"TransformMatrix = 1 0 0 0 1 0 0 0 1",
            b"TransformMatrix = 1 0 0 0 1 0 0 1 0",
            "direction",
        ),
    ],
)
def test_a_reason_that_says_nothing_is_not_given(tmp_path, old, new, said):
    path = tmp_path / "ct.mha"
    sitk.WriteImage(sitk.Image(5, 6, 7, sitk.sitkInt16), str(path))
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new) if old else content[:-100])
    with pytest.raises(InputError, match=said) as refusal:
        read_volume(path)
    assert "No such file" not in str(refusal.value)


def test_masks_are_read_and_empty_ones_refused(tmp_path):
    array = np.zeros((3, 3, 3), np.float32)
    array[0, 0] = [2, -1, np.nan]
    write_volume(Volume(array, Grid((3, 3, 3))), tmp_path / "mask.nrrd")
    mask = read_mask(tmp_path / "mask.nrrd").array
    assert mask.dtype == bool and np.argwhere(mask).tolist() == [[0, 0, 0]]

    write_volume(Volume(np.ones((3, 3, 3), bool), Grid((3, 3, 3))), tmp_path / "all.nii.gz")
    assert read_mask(tmp_path / "all.nii.gz").array.all()
    with pytest.raises(InputError, match="none of the labels asked for; it has 1"):
        read_mask(tmp_path / "all.nii.gz", [2])
    write_volume(Volume(np.zeros((3, 3, 3), bool), Grid((3, 3, 3))), tmp_path / "none.nii.gz")
    with pytest.raises(InputError, match="is empty"):
        read_mask(tmp_path / "none.nii.gz")


@pytest.mark.parametrize("name", ["field.mhd", "field.nhdr", "field.txt", "field.png", "field"])
def test_unknown_suffixes_are_refused_with_the_supported_ones(tmp_path, field, name):
    with pytest.raises(InputError, match=r"\.h5, \.tfm, \.nii, \.nii\.gz, \.nrrd, \.mha"):
        write_transform(field, tmp_path / name)
    with pytest.raises(InputError, match=r"\.nii, \.nii\.gz, \.nrrd, \.mha"):
        write_volume(Volume(np.zeros(OBLIQUE.shape), OBLIQUE), tmp_path / name)
    assert not os.listdir(tmp_path)


def test_atomic_replaces_on_success_only(tmp_path):
    path = tmp_path / "Result.NII.GZ"
    path.write_text("old")
    with pytest.raises(KeyError), atomic(path) as temporary:
        assert temporary.parent == tmp_path and temporary.name.endswith(".nii.gz")
        temporary.write_text("half")
        raise KeyError("stopped")
    assert path.read_text("utf-8") == "old" and os.listdir(tmp_path) == [path.name]
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text("utf-8") == "old"
    assert path.read_text("utf-8") == "new" and os.listdir(tmp_path) == [path.name]


def test_places_that_cannot_be_written_are_refused(tmp_path, field):
    with pytest.raises(InputError, match="folder .* does not exist"):
        write_transform(field, tmp_path / "nowhere" / "field.h5")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_transform(field, tmp_path / "folder.h5")
    with pytest.raises(InputError, match="No space left"), atomic(tmp_path / "full.csv"):
        raise OSError(28, "No space left on device")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_protected_folder_is_refused(tmp_path, field):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written to"):
        write_transform(field, tmp_path / "field.h5")


def test_written_files_have_the_usual_permissions(tmp_path, field):
    (tmp_path / "plain").touch()
    write_transform(field, tmp_path / "field.nii.gz")
    assert (tmp_path / "field.nii.gz").stat().st_mode == (tmp_path / "plain").stat().st_mode


def nifti(path, ct, form):
    """The image as NIfTI-1, its bytes changed by `form`."""
    plain = path.parent / "plain.nii"
    write_volume(ct, plain)
    path.write_bytes(form(plain.read_bytes()))
    return path


def nifti2(content):
    """The bytes of a NIfTI-1 file with the header of NIfTI-2 as far as readers look at it."""
    return (540).to_bytes(4, "little") + b"n+2\0\r\n\032\n" + bytes(532) + content[352:]


@pytest.mark.parametrize(
    "form",
    {
        "not compressed": lambda c: c,
        "zeros behind": lambda c: gzip.compress(c) + bytes(700),
        "text behind": lambda c: gzip.compress(c) + b"end of file" * 60,
        "in two parts": lambda c: gzip.compress(c[:500]) + gzip.compress(c[500:]),
    }.items(),
    ids=lambda item: item[0],
)
def test_packed_nifti_of_every_kind_is_read(tmp_path, ct, form):
    again = read_volume(nifti(tmp_path / "ct.nii.gz", ct, form[1]))
    np.testing.assert_array_equal(again.array, ct.array)
    assert again.grid.matches(ct.grid)


@pytest.mark.parametrize(
    "name, form, said",
    [
        ("ct.nii", gzip.compress, "compressed, against its name: rename it to .nii.gz"),
        ("ct.nii", nifti2, "NIfTI-2 file.*save it as NIfTI-1"),
        ("ct.nii.gz", lambda c: gzip.compress(nifti2(c)), "NIfTI-2 file.*save it as NIfTI-1"),
        ("ct.nii.gz", lambda c: gzip.compress(c[:-9]), "damaged or incomplete"),
        ("ct.nii.gz", lambda c: gzip.compress(c)[:-60], "damaged or incomplete|cannot be read"),
        ("ct.nii.gz", lambda c: c[:-9], "damaged or incomplete"),
        ("ct.nii.gz", lambda c: gzip.compress(c[:-9]) + bytes(99), "damaged or incomplete"),
    ],
)
def test_nifti_that_cannot_be_read_says_why(tmp_path, ct, name, form, said):
    with pytest.raises(InputError, match=f"{name}.*({said})"):
        read_volume(nifti(tmp_path / name, ct, form))


@pytest.fixture
def comma(tmp_path_factory, monkeypatch):
    """A language that writes 2,5 for two and a half; compiled where none is installed."""
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        locale.setlocale(locale.LC_NUMERIC, "de_DE.UTF-8")
    except locale.Error:
        if shutil.which("localedef") is None:
            pytest.skip("no language with a decimal comma is installed")
        folder = tmp_path_factory.mktemp("locales")
        subprocess.run(
            ["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")], check=False
        )
        monkeypatch.setenv("LOCPATH", str(folder))
        locale.setlocale(locale.LC_NUMERIC, "de_DE.UTF-8")
    yield
    locale.setlocale(locale.LC_NUMERIC, before)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_a_decimal_comma_changes_no_file(tmp_path, ct, comma, suffix):
    write_volume(ct, tmp_path / f"ct{suffix}")
    assert read_volume(tmp_path / f"ct{suffix}").grid.matches(ct.grid)
    assert locale.localeconv()["decimal_point"] == ","


def test_a_decimal_comma_changes_no_labels(tmp_path, comma):
    grid = Grid((8, 7, 6), (2.5, 2.5, 2.5))
    regions = np.arange(8 * 7 * 6, dtype=np.int16).reshape(grid.shape) % 3
    still = DisplacementField(np.zeros((*grid.shape, 3), np.float32), grid)
    write_volume(Volume(regions, grid), tmp_path / "a.nrrd")
    warp_label_file(tmp_path / "a.nrrd", still, grid, tmp_path / "b.nrrd")
    one, two = read_regions(tmp_path / "b.nrrd").values()
    assert one.grid.matches(grid)
    np.testing.assert_array_equal(one.array + 2 * two.array, regions)
