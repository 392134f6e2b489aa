"""DICOM folders: slices by position, in HU and in place; what is incomplete or mixed is refused."""

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.core.dicom_series import frame_of_reference
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import (
    grid_of,
    read_volume,
)
from L2ORegistrationLib.core.geometry import Grid


def write_dicom(folder, positions, *, array=None, series="1.2.3.1", side=0.0):
    """A CT series with one slice at each position (mm along z), shifted by side * z along y."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, z in enumerate(positions):
        pixels = np.full((5, 6), k, np.int16) if array is None else array[k]
        image = sitk.GetImageFromArray(pixels[None])
        image.SetSpacing((0.7, 0.8, 2.5))
        tags = {
            "0008|0060": "CT",
            "0008|0018": f"{series}.{k + 1}",
            "0020|000d": "1.2.3",
            "0020|000e": series,
            "0020|0013": str(k + 1),
            "0020|0032": f"-10\\{20 + side * z}\\{z}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{series}.{len(positions) - k}.dcm"))
        writer.Execute(image)
    return folder


def test_a_dicom_folder_gives_hounsfield_units_in_place(tmp_path, rng):
    array = rng.integers(0, 2000, (4, 5, 6)).astype(np.int16)
    folder = write_dicom(tmp_path / "ct", [10.0, 12.5, 15.0, 17.5], array=array - 1024)
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.array, array - 1024)
    assert volume.grid.matches(Grid((6, 5, 4), (0.7, 0.8, 2.5), (-10, 20, 10)))


def test_a_folder_without_slices_is_refused_without_noise(tmp_path, capfd):
    (tmp_path / "ct").mkdir()
    with pytest.raises(InputError, match="no DICOM series"):
        read_volume(tmp_path / "ct")
    assert frame_of_reference(tmp_path / "ct") == "" and grid_of(tmp_path / "ct") is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "positions, side, said",
    [
        ([0, 2.5, 7.5, 10], 0, "2.50 to 5.00 mm apart"),
        ([0, 2.5, 2.5, 5.0], 0, "at one position"),
        ([0, 2.5, 5, 7.5], 0.3, "gantry tilt"),
        ([0], 0, "single slice"),
        ([], 0, "no DICOM series"),
    ],
)
def test_incomplete_dicom_folders_are_refused(tmp_path, positions, side, said):
    with pytest.raises(InputError, match=said):
        read_volume(write_dicom(tmp_path / "ct", positions, side=side))


@pytest.mark.parametrize("kept", [0, 700, -2])
def test_a_slice_that_is_cut_short_is_not_left_out_at_an_end(tmp_path, kept):
    folder = write_dicom(tmp_path / "ct", [0, 2.5, 5, 7.5])
    (folder / "notes.txt").write_text("of somebody")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert read_volume(folder).grid.size == (6, 5, 4)
    last = folder / "1.2.3.1.1.dcm"
    last.write_bytes(last.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"1\.2\.3\.1\.1\.dcm.* cut short: copy"):
        read_volume(folder)


def test_slices_without_pixel_spacing_are_not_taken_for_a_millimetre(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    folder = write_dicom(tmp_path / "ct", [0, 2.5, 5])
    for path in folder.iterdir():
        slice_ = pydicom.dcmread(path)
        del slice_.PixelSpacing
        slice_.save_as(path)
    with pytest.raises(InputError, match="no pixel spacing"):
        read_volume(folder)


def test_a_folder_of_two_series_is_refused_with_their_list(tmp_path):
    write_dicom(tmp_path / "ct", [0, 2.5])
    write_dicom(tmp_path / "ct", [0, 2.5, 5], series="1.2.3.2")
    with pytest.raises(InputError, match=r"2 series.*1\.2\.3\.1 \(2 files\).*2 \(3 files\)"):
        read_volume(tmp_path / "ct")


@pytest.mark.parametrize(
    "positions, said",
    [
        ([0, 2.5, 5, 7.5, 5, 7.5, 10], "at one position, at 2 of them"),
        ([0, 2.5, 5, 2.5, 5, 7.5], "at one position, at 2 of them"),
        ([0, 2.5, 5, 7.5, 5, 2.5, 0], "at one position"),
        ([0, 2.5, 5, 12.5, 15], "2.50 to 7.50 mm apart"),
        ([0, 2.5, 5, -10, -12.5], "2.50 to 10.00 mm apart"),
    ],
)
def test_a_second_acquisition_in_the_folder_is_noticed(tmp_path, positions, said):
    with pytest.raises(InputError, match=said):
        read_volume(write_dicom(tmp_path / "ct", positions))


def test_slices_are_stacked_by_position_whatever_their_order(tmp_path):
    array = np.tile(np.arange(5, dtype=np.int16)[:, None, None], (1, 5, 6))
    positions = [5.0, 0.0, 10.0, 2.5, 7.5]
    volume = read_volume(write_dicom(tmp_path / "ct", positions, array=array))
    assert volume.array[:, 0, 0].tolist() == [1, 3, 0, 4, 2]
    assert volume.grid.matches(Grid((6, 5, 5), (0.7, 0.8, 2.5), (-10, 20, 0)))
