"""results.csv and index.html of a cohort: every pair, the failed and doubtful ones first."""

from __future__ import annotations

import csv
import time
import warnings
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from ..core.errors import InputError
from ..core.paths import atomic
from ..reporting.page import page
from .table import PAGE, RESULTS, ROLES, Row

COLUMNS = (
    "name",
    "verdict",
    "reasons",
    "error_before_mm",
    "error_mm",
    "error_p95_mm",
    "error_max_mm",
    "dissimilarity_before",
    "dissimilarity",
    "folding_percent",
    "min_jacobian",
    "sdlogj",
    "sdlogj_learn2reg",
    "seconds",
    "memory_mb",
    "software",
    "device",
    "transform",
    "report",
    *ROLES,
    *(f"{role}_sha256" for role in ROLES),
)
_SHOWN = {
    "error_before_mm": "error before, mm",
    "error_mm": "error, mm",
    "error_p95_mm": "p95, mm",
    "dissimilarity_before": "dissimilarity before",
    "dissimilarity": "dissimilarity",
    "folding_percent": "folding, %",
    "sdlogj": "SDlogJ",
    "seconds": "seconds",
    "memory_mb": "memory, MB",
}
_ORDER = {"failed": 0, "check": 1}  # then all others
_SECONDS = 5.0  # at least between two writings, while results arrive
_SHARE = 0.05  # of the time, at most, goes into writing

_STYLE = """
body { max-width: none; }
th, td { vertical-align: top; }
th { cursor: pointer; position: sticky; top: 0; background: #fff; vertical-align: bottom; }
th[aria-sort=ascending]::after { content: " \\25b2"; }
th[aria-sort=descending]::after { content: " \\25bc"; }
th.text { text-align: left; } td.text { word-break: normal; }
td.reasons { min-width: 14rem; max-width: 26rem; }
img { width: 150px; display: block; background: #000; }
.good, .check, .failed { background: none; border-color: #ddd; }
.failed { color: #b00020; font-weight: 600; } .check { color: #a05a00; font-weight: 600; }
"""

_BODY = Template("""<p>$summary</p>
<p class="note">Coronal slices: fixed <span class="orange">orange</span>, moving
<span class="blue">blue</span>, grey where both agree. Click a heading to sort; a name leads to its
report.</p>
<table id="pairs"><thead><tr>$head</tr></thead><tbody>
$rows
</tbody></table>
<script>
const table = document.getElementById("pairs"), heads = [...table.tHead.rows[0].cells];
heads.forEach((head, column) => head.addEventListener("click", () => {
  const up = head.getAttribute("aria-sort") !== "ascending", sign = up ? 1 : -1;
  heads.forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[column].dataset.key ?? row.cells[column].textContent;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const x = key(a), y = key(b);
    if (x === "" || y === "") return (x === "") - (y === "");  // empty cells stay at the end
    return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
  });
  table.tBodies[0].append(...rows);
}));
</script>""")


class Results:
    """The lines that are there so far, on disk as they come.

    on_warning: told once, in a sentence, where they cannot be put on disk before the end.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[Row],
        on_warning: Callable[[str], object] = warnings.warn,
    ):
        self._folder, self._names = folder, [row.name for row in rows]
        self._lines: dict[str, dict[str, Any]] = {}
        self._next = 0.0
        self._on_warning, self._warned = on_warning, False

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, name: str) -> bool:
        return name in self._lines

    def add(self, line: dict[str, Any]) -> None:
        """Take a pair's line; both files follow, but not for every pair of thousands.

        Where they cannot be written, the next line tries again.
        """
        self._lines[line["name"]] = line
        began = time.monotonic()
        if began >= self._next:
            written = self.write_if_possible()
            ended = time.monotonic()
            self._next = ended + max(_SECONDS if written else 0.0, (ended - began) / _SHARE)

    def lines(self) -> list[dict[str, Any]]:
        """The lines so far, in the table's order."""
        return [self._lines[name] for name in self._names if name in self._lines]

    def write(self) -> None:
        """Replace results.csv (in the table's order) and index.html (the worst first).

        Raises InputError where one of them cannot be written; the other is all the same.
        """
        if problem := self._replaced():
            raise InputError(
                f"{problem} Then run the same command again: the pairs are kept, it ends at once."
            ) from problem

    def write_if_possible(self) -> bool:
        """Write as `write` does, or warn where that is impossible, once; whether it was possible.

        Excel on Windows locks the table as long as it shows it: hours of work must not end by that.
        """
        problem = self._replaced()
        if problem and not self._warned:
            self._warned = True
            self._on_warning(f"{problem} Until then the run goes on and keeps its results.")
        return problem is None

    def _replaced(self) -> InputError | None:
        """Replace both files, each if possible; why the first of them could not be."""
        problems = []
        for name, write in ((RESULTS, self._write_table), (PAGE, self._write_page)):
            try:
                with atomic(self._folder / name) as temporary:
                    write(temporary)
            except InputError as error:
                problems.append(error)
        return problems[0] if problems else None

    def _write_table(self, path: Path) -> None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(self.lines())

    def _write_page(self, path: Path) -> None:
        content = index_page(self.lines(), len(self._names), self._folder.name)
        path.write_text(content, encoding="utf-8")


def index_page(lines: list[dict[str, Any]], total: int, title: str) -> str:
    """The page: failed, then doubtful pairs, then the others by their error or mismatch."""
    shown = {key: text for key, text in _SHOWN.items() if any(key in line for line in lines)}
    head = [("pair", "text"), ("before", "text"), ("after", "text"), ("verdict", "text")]
    head += [("reasons", "text"), *((text, "") for text in shown.values())]
    ordered = sorted(lines, key=_worst_first)
    done = sum(bool(line["transform"]) for line in lines)
    counts = [f"{total} pairs: {done} registered", f"{len(lines) - done} failed"]
    if total > len(lines):
        counts.append(f"{total - len(lines)} to come")
    body = _BODY.substitute(
        summary=", ".join(counts) + ".",
        head="".join(f'<th class="{kind}">{escape(text)}</th>' for text, kind in head),
        rows="\n".join(_row(line, list(shown)) for line in ordered),
    )
    return page(title, body, _STYLE)


def _worst_first(line: dict[str, Any]) -> tuple:
    worst = line.get("error_mm", line.get("dissimilarity", 0.0))
    return _ORDER.get(line["verdict"], len(_ORDER)), -float(worst), line["name"]


def _row(line: dict[str, Any], shown: list[str]) -> str:
    name, folder = escape(line["name"]), quote(line["name"])
    verdict = escape(line["verdict"])
    rank = _ORDER.get(line["verdict"], len(_ORDER))
    cells = [f'<td class="text">{name}</td>', *['<td data-key=""></td>'] * 2]
    if line["transform"]:
        link = f'<a href="{folder}/report.html">{name}</a>'
        cells = [f'<td class="text" data-key="{name}">{link}</td>']
        for state in ("before", "after"):
            image = f'<img loading="lazy" alt="{name}, {state}" src="{folder}/{state}.png">'
            cells.append(f'<td data-key="{name}">{image}</td>')
    cells.append(f'<td class="text {verdict}" data-key="{rank}">{verdict}</td>')
    cells.append(f'<td class="text reasons">{escape(line["reasons"])}</td>')
    cells += [f"<td>{escape(str(line.get(key, '')))}</td>" for key in shown]
    return "<tr>" + "".join(cells) + "</tr>"
