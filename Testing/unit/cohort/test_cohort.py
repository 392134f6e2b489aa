"""A cohort's table, its page of results, and what counts as done, without a cluster."""

import csv
import json
import re

import pytest
from L2ORegistrationLib.cohort.pair import checksum, failed, finished, inputs_state, starts
from L2ORegistrationLib.cohort.results import COLUMNS, Results, index_page
from L2ORegistrationLib.cohort.table import Row, checked_rows, read_table
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


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "needs a first line with the columns fixed and moving"),
        ("fixed,other\na,b\n", "needs a first line"),
        ("fixed,moving\n", "holds no pairs"),
        ("fixed,moving,fixed_maks\na,b,c\n", "is 'fixed_mask' meant"),
        ("name,fixed,moving\nx,a,b\nX,c,d\n", "Rows 1 and 2 are both named 'X'"),
        ("name,fixed,moving\n../x,a,b\n", "cannot be the name of a folder"),
        ("fixed,moving\na,b,c\n", "row 1 has 3 cells"),
        ("fixed,moving,fixed\na,b,c\n", "twice"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        read_table(table(tmp_path, text))


def test_a_folder_with_two_fixed_images_is_refused(tmp_path):
    (tmp_path / "p").mkdir()
    for file in ("fixed.nii.gz", "fixed.nrrd"):
        (tmp_path / "p" / file).touch()
    with pytest.raises(InputError, match="keep one"):
        read_table(tmp_path)


def record(folder, row, settings):
    """What a finished pair leaves."""
    home = folder / row.name
    home.mkdir()
    line = failed(row, "")
    line |= {"verdict": "done", "transform": f"{row.name}/t.h5", "report": f"{row.name}/r.html"}
    line |= {f"{role}_sha256": checksum(path) for role, path in row.inputs.items()}
    for key in ("transform", "report"):
        (folder / line[key]).touch()
    content = {"line": line, "settings": settings, "inputs": inputs_state(row)}
    content["version"] = line["software"].split()[1]
    (home / "pair.json").write_text(json.dumps(content))
    return line


def test_a_pair_is_done_until_its_inputs_settings_or_outputs_change(tmp_path):
    images = tmp_path / "a.nii", tmp_path / "b.nii"
    for image in images:
        image.write_text(image.name)
    row, settings = Row("x", *map(str, images)), {"spacing": 3.0}
    line = record(tmp_path, row, settings)
    home = tmp_path / "x"
    assert finished(row, home, settings) == line
    assert finished(row, home, {"spacing": 2.0}) is None
    with_mask = Row("x", *map(str, images), fixed_mask=str(images[0]))
    assert finished(with_mask, home, settings) is None
    images[0].write_text("a.nii")  # touched, with the same content
    assert finished(row, home, settings) == line
    images[0].write_text("other")
    assert finished(row, home, settings) is None
    images[0].write_text("a.nii")
    (home / "t.h5").unlink()
    assert finished(row, home, settings) is None


def test_checksums_see_names_and_contents_of_a_folder(tmp_path):
    (tmp_path / "1").write_text("slice")
    one = checksum(str(tmp_path))
    assert checksum(str(tmp_path)) == one
    (tmp_path / "1").rename(tmp_path / "2")
    assert checksum(str(tmp_path)) != one
    with pytest.raises(InputError, match="cannot be read"):
        checksum(str(tmp_path / "missing"))


def test_starts_of_other_runs_do_not_count(tmp_path):
    assert starts(tmp_path, "a") == 0
    (tmp_path / "starts.txt").write_text("a 17\nb 18\na 19\n")
    assert starts(tmp_path, "a") == 2


def test_the_page_shows_the_worst_first_and_nothing_unescaped(tmp_path):
    rows = checked_rows([{"name": n, "fixed": "a", "moving": "b"} for n in "pqrs"])
    done = {"verdict": "good", "reasons": "", "transform": "t", "report": "r"}
    lines = [
        {"name": "p", **done, "error_mm": 1.0},
        {"name": "q", **done, "error_mm": 2.0},
        {"name": "r", **done, "verdict": "check", "reasons": "<b> & so on", "error_mm": 0.1},
        failed(rows[3], "no file"),
    ]
    page = index_page(lines, 5, "study")
    assert re.findall(r'alt="(\w), before"', page) == ["r", "q", "p"]
    assert page.index("no file") < page.index("&lt;b&gt; &amp; so on")
    assert "5 pairs: 3 registered, 1 failed, 1 to come" in page
    assert "http:" not in page and "https:" not in page  # nothing comes from elsewhere


def test_results_follow_the_table_whatever_order_they_come_in(tmp_path):
    rows = checked_rows([{"name": n, "fixed": "a", "moving": "b"} for n in "pq"])
    results = Results(tmp_path, rows)
    for row in reversed(rows):
        results.add(failed(row, 'it rains; hard, and "loud"'))
    results.write()
    with open(tmp_path / "results.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == ["p", "q"]
    assert tuple(lines[0]) == COLUMNS and lines[0]["reasons"] == 'it rains; hard, and "loud"'
