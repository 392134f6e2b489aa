"""What an input of a cohort's pair consists of: files, folders, headers with voxels beside them."""

import hashlib
import os

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.cohort.inputs import checksum, inputs_state
from L2ORegistrationLib.cohort.table import Row
from L2ORegistrationLib.core.errors import InputError


def test_checksums_see_names_and_contents_of_a_folder(tmp_path):
    (tmp_path / "1").write_text("slice")
    one = checksum(str(tmp_path))
    assert checksum(str(tmp_path)) == one
    (tmp_path / "1").rename(tmp_path / "2")
    assert checksum(str(tmp_path)) != one
    with pytest.raises(InputError, match="cannot be read"):
        checksum(str(tmp_path / "missing"))


@pytest.mark.parametrize("name", [".DS_Store", "._1.dcm", "Thumbs.db", "desktop.ini"])
def test_a_folder_that_was_only_looked_into_is_the_same(tmp_path, name):
    (tmp_path / "1.dcm").write_text("slice")
    row = Row("x", str(tmp_path))
    before, sum_before = inputs_state(row), checksum(row.fixed)
    (tmp_path / name).write_text("of the system")
    assert inputs_state(row) == before and checksum(row.fixed) == sum_before


def test_the_sum_of_a_folder_is_that_of_its_names_in_order(tmp_path):
    for name in ("b", "A", "C"):
        (tmp_path / name).write_text(name)
    assert checksum(str(tmp_path)) == hashlib.sha256(b"AACCbb").hexdigest()


def voxels(value):
    """The bytes of a raw image of 4 x 3 x 2 voxels."""
    return np.full((2, 3, 4), value, np.int16).tobytes()


META = """ObjectType = Image
NDims = 3
DimSize = 4 3 2
ElementType = MET_SHORT
ElementDataFile = """
NRRD = """NRRD0004
# data file: only-a-comment.raw
type: short
dimension: 3
sizes: 4 3 2
encoding: raw
endian: little
data file: """


@pytest.mark.parametrize(
    ("name", "header", "files"),
    [
        ("a.mhd", META + "my voxels.raw\n", {"my voxels.raw": 24}),
        ("a.mha", META + "sub/a.raw\n", {"sub/a.raw": 24}),
        ("a.mhd", META + "LIST\nb.raw\na.raw\n", {"b.raw": 12, "a.raw": 12}),
        ("a.mhd", META + "s%02d.raw 8 9 1\n", {"s08.raw": 12, "s09.raw": 12}),
        ("a.nhdr", NRRD + "./my voxels.raw\n", {"my voxels.raw": 24}),
        ("a.nrrd", NRRD.replace("data file", "datafile") + "a.raw\n", {"a.raw": 24}),
        ("a.nhdr", NRRD + "LIST\nb.raw\na.raw\n", {"b.raw": 12, "a.raw": 12}),
        ("a.nhdr", NRRD + "s%02d.raw 8 9 1\n", {"s08.raw": 12, "s09.raw": 12}),
    ],
)
@pytest.mark.parametrize("absolute", [True, False])
def test_voxels_beside_their_header_are_part_of_an_input(
    tmp_path, monkeypatch, name, header, files, absolute
):
    folder = tmp_path / "[x] %d"  # nothing in the name of a folder is a pattern
    (folder / "sub").mkdir(parents=True)
    monkeypatch.chdir(folder)
    path = folder / name
    path.write_text(header)
    for file, count in files.items():
        (folder / file).write_bytes(voxels(1)[: 2 * count])
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).tobytes() == voxels(1)
    row = Row("x", str(path) if absolute else name)
    before, sum_before = inputs_state(row), checksum(row.fixed)
    assert before == inputs_state(row) and sum_before == checksum(row.fixed)
    for file in files:
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(voxels(2)[: len(whole)])
        os.utime(folder / file, ns=(0, 0))  # as after a move: older than the header
        assert inputs_state(row) != before and checksum(row.fixed) != sum_before
        (folder / file).unlink()
        assert inputs_state(row) != before and checksum(row.fixed) != sum_before
        (folder / file).write_bytes(whole)
    assert checksum(row.fixed) == sum_before


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr", "a.nii"])
def test_an_image_in_one_file_has_the_sum_that_earlier_versions_recorded(tmp_path, name):
    path = tmp_path / name
    if name == "a.mhd":
        path.write_bytes((META + "LOCAL\n").encode() + voxels(1))
    elif name == "a.nhdr":
        text = NRRD.removesuffix("data file: ") + "data file:=only a note.raw\n\n"
        path.write_bytes(text.encode() + voxels(1))
    else:
        sitk.WriteImage(sitk.Image(4, 3, 2, sitk.sitkInt16), str(path))
    assert path.stat().st_size > 24 and len(list(tmp_path.iterdir())) == 1
    assert sitk.ReadImage(str(path)).GetSize() == (4, 3, 2)
    state = path.stat()
    assert inputs_state(Row("x", str(path))) == {"fixed": [state.st_size, state.st_mtime_ns]}
    alone = tmp_path / "copy.bin"
    alone.write_bytes(path.read_bytes())
    assert checksum(str(path)) == checksum(str(alone))


@pytest.mark.parametrize("content", [b"", b"\0" * 9000, b"ElementDataFile = \0\n", b"NRRD\n\n"])
def test_a_damaged_header_is_an_input_of_its_own(tmp_path, content):
    path = tmp_path / "a.mhd"
    path.write_bytes(content)
    assert inputs_state(Row("x", str(path)))["fixed"][0] == len(content)
    assert len(checksum(str(path))) == 64
