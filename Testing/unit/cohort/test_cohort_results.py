"""A cohort's results on disk: the table, the page, and what happens while they are locked."""

import csv
import os
import re
import time

import pytest
from L2ORegistrationLib.cohort import results as results_module
from L2ORegistrationLib.cohort.pair import (
    failed,
)
from L2ORegistrationLib.cohort.results import COLUMNS, Results, index_page
from L2ORegistrationLib.cohort.table import checked_rows
from L2ORegistrationLib.core.errors import InputError


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


@pytest.fixture
def locked(monkeypatch):
    """Names of files that refuse to be replaced, as one that Excel shows on Windows."""
    names, replace = set(), os.replace

    def refusing(source, target):
        if os.path.basename(target) in names:
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    return names


def names_in(folder):
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return [line["name"] for line in csv.DictReader(file)]


def test_a_table_open_in_excel_is_warned_of_once_and_written_when_it_is_closed(
    tmp_path, monkeypatch, locked
):
    monkeypatch.setattr(results_module, "_SHARE", 1e6)  # as if writing took no time
    rows = checked_rows([{"name": n, "fixed": "a", "moving": "b"} for n in "pqrs"])
    told = []
    results = Results(tmp_path, rows, told.append)
    locked.add("results.csv")
    for row in rows[:2]:
        results.add(failed(row, ""))
    (warning,) = told
    assert "results.csv could not be written (Permission denied)" in warning
    assert "close programs that use it" in warning and "the run goes on" in warning
    assert "2 to come" in (tmp_path / "index.html").read_text("utf-8")  # the page is not locked
    locked.clear()
    results.add(failed(rows[2], ""))
    assert names_in(tmp_path) == ["p", "q", "r"] and len(told) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "results.csv"]


def test_a_table_that_stays_locked_does_not_cost_a_writing_for_every_pair(tmp_path, locked):
    rows = checked_rows([{"name": f"p{k}", "fixed": "a", "moving": "b"} for k in range(3000)])
    results = Results(tmp_path, rows, lambda _: None)
    locked.add("results.csv")
    began = time.monotonic()
    for row in rows:
        results.add(failed(row, ""))
    adding = time.monotonic() - began
    locked.clear()
    began = time.monotonic()
    results.write()
    assert adding < 50 * (time.monotonic() - began)  # of 3000 times


def test_a_table_still_locked_at_the_end_is_a_sentence_that_says_what_to_do(tmp_path, locked):
    rows = checked_rows([{"name": "p", "fixed": "a", "moving": "b"}])
    results = Results(tmp_path, rows, lambda _: None)
    locked.add("results.csv")
    results.add(failed(rows[0], ""))
    with pytest.raises(InputError, match="close programs that use it.*run the same command again"):
        results.write()
