"""A cohort's table, of a file or of folders: what is read, and what is refused."""

import re

import pytest
from L2ORegistrationLib.cohort.table import Row, read_table
from L2ORegistrationLib.core.errors import InputError


def table(folder, text):
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_start_at_the_table_and_rows_get_names(tmp_path):
    rows = read_table(table(tmp_path, "fixed,moving,age\na.nii,/b/c.nii,61\nd e.nii,f,\n"))
    assert rows[0] == Row("pair-1", str(tmp_path / "a.nii"), "/b/c.nii")
    assert rows[1].name == "pair-2" and rows[1].fixed == str(tmp_path / "d e.nii")
    assert rows[1].inputs == {"fixed": rows[1].fixed, "moving": str(tmp_path / "f")}


def test_semicolons_quotes_and_a_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes('\ufeffName;Fixed;Moving\nx;"a;1.nii";b\n\n'.encode())
    assert read_table(path) == [Row("x", str(tmp_path / "a;1.nii"), str(tmp_path / "b"))]


def test_empty_lines_above_the_header_and_doubled_quotes_are_read(tmp_path):
    path = table(tmp_path, '\n \n"fixed","moving"\n"a ""1"".nii","b, c.nii"\n')
    assert read_table(path) == [
        Row("pair-1", *(str(tmp_path / n) for n in ('a "1".nii', "b, c.nii")))
    ]


def test_a_folder_of_folders_is_a_table(tmp_path):
    for name in ("two", "one"):
        (tmp_path / name / "moving").mkdir(parents=True)  # a DICOM folder
        for file in ("fixed.nii.gz", "fixed_mask.nrrd", "fixed_landmarks.csv", "notes.txt"):
            (tmp_path / name / file).touch()
    (tmp_path / "unrelated").mkdir()
    rows = read_table(tmp_path)
    assert [row.name for row in rows] == ["one", "two"]
    home = tmp_path / "one"
    assert rows[0].moving == str(home / "moving")
    assert set(rows[0].inputs) == {"fixed", "moving", "fixed_mask", "fixed_landmarks"}


def pair_folder(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_a_folder_table_takes_segmentations_for_masks(tmp_path):
    images = "fixed.nii.gz", "moving.NII.GZ"
    masks = "fixed_mask.seg.nrrd", "moving_mask.Seg.nrrd"
    home = pair_folder(tmp_path / "p", *images, *masks)
    (row,) = read_table(tmp_path)
    assert row == Row("p", *(str(home / name) for name in (*images, *masks)))


@pytest.mark.parametrize(
    "name", ["fixed_mask.stl", "fixed_mask", "moving_landmarks.xlsx", "initial_transform.json"]
)
def test_a_file_of_a_pair_that_nobody_reads_is_refused_by_name(tmp_path, name):
    home = pair_folder(tmp_path / "p", "fixed.nii.gz", "moving.nii.gz", name)
    with pytest.raises(InputError, match=re.escape(f"{home / name} is not read")):
        read_table(tmp_path)


@pytest.mark.parametrize("name", ["fixed.jpg", "fixed.seg.nrrd"])
def test_an_image_that_nobody_reads_is_refused_by_name(tmp_path, name):
    pair_folder(tmp_path / "p", name, "moving.nii.gz")
    with pytest.raises(InputError, match=re.escape(f"{name} is not read as fixed")):
        read_table(tmp_path)


def test_voxels_and_notes_beside_an_image_belong_to_it(tmp_path):
    home = pair_folder(tmp_path / "p", "fixed.mhd", "fixed.raw", "moving.json", "moving.nii.gz")
    assert read_table(tmp_path) == [Row("p", str(home / "fixed.mhd"), str(home / "moving.nii.gz"))]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "needs a first line with the columns fixed and moving"),
        ("fixed,other\na,b\n", "needs a first line"),
        ("fixed\na\n", "needs a first line"),
        ("fixed,moving\n", "holds no pairs"),
        ("fixed,moving,fixed_maks\na,b,c\n", "is 'fixed_mask' meant"),
        ("name,fixed,moving\nx,a,b\nX,c,d\n", "Rows 1 and 2 are both named 'X'"),
        ("name,fixed,moving\nStraße,a,b\nSTRASSE,c,d\n", "Rows 1 and 2 are both named"),
        ("name,fixed,moving\nB\u00e4r,a,b\nBa\u0308r,c,d\n", "Rows 1 and 2 are both named"),
        ("name,fixed,moving\n../x,a,b\n", "cannot be the name of a folder"),
        ("name,fixed,moving\nNul,a,b\n", "Row 1: Windows has no folders named 'Nul'"),
        ("name,fixed,moving\nlpt1.old,a,b\n", "Windows has no folders named 'lpt1.old'"),
        ("name,fixed,moving\nx,a,b\nResults.csv,c,d\n", "Row 2: 'Results.csv' is a file beside"),
        ("name,fixed,moving\nindex.html,a,b\n", "'index.html' is a file beside the folders"),
        ("fixed,moving\na,b,c\n", "row 1 has 3 cells"),
        ("fixed,moving,fixed\na,b,c\n", "twice"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        read_table(table(tmp_path, text))


def test_names_with_accents_are_taken_as_folders_of_a_mac_have_them(tmp_path):
    home = pair_folder(tmp_path / "Ba\u0308r", "fixed.nii.gz", "moving.nii.gz")
    (row,) = read_table(tmp_path)
    assert row == Row("B\u00e4r", *(str(home / f"{r}.nii.gz") for r in ("fixed", "moving")))


@pytest.mark.parametrize("name", ["Nully", "com10", "console", "results", "aux-1", "index.html.1"])
def test_names_that_only_look_like_those_are_taken(tmp_path, name):
    (row,) = read_table(table(tmp_path, f"name,fixed,moving\n{name},a,b\n"))
    assert row.name == name


def test_a_folder_with_two_fixed_images_is_refused(tmp_path):
    (tmp_path / "p").mkdir()
    for file in ("fixed.nii.gz", "fixed.nrrd"):
        (tmp_path / "p" / file).touch()
    with pytest.raises(InputError, match="keep one"):
        read_table(tmp_path)
