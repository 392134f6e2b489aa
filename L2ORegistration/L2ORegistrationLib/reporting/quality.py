"""The QA page: TG-132's table in one HTML file, with what else speaks for or against the result."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from ..core.paths import atomic
from ..outputs.quality import Row
from .html import html_table
from .style import STYLE

_COLOURS = {"within": "#2e7d32", "outside": "#c62828", "not measured": "#888888"}


def section(rows: list[Row], beside: Mapping[str, str] | None = None) -> str:
    """The table as HTML, below the verdict, the confidence or whatever else stands beside it."""
    said = "".join(f"<p><b>{escape(k)}</b>: {escape(v)}</p>" for k, v in (beside or {}).items())
    lines = [
        [
            escape(row.name),
            escape(row.where),
            escape(row.tolerance),
            escape(row.value),
            f'<b style="color:{_COLOURS[row.verdict]}">{row.verdict}</b>',
        ]
        for row in rows
    ]
    return said + html_table(["TG-132", "where", "tolerance", "measured", ""], lines)


def write_page(
    rows: list[Row], path: Path, title: str, beside: Mapping[str, str] | None = None
) -> None:
    """Write the page, all or nothing. Raises InputError where it cannot be written."""
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{STYLE} td, th {{ text-align: left; }}</style></head>\n<body>"
        f"<h1>{escape(title)}</h1>\n<p>Quality of a deformable registration after AAPM TG-132, "
        f"table III.</p>\n{section(rows, beside)}\n"
        '<p class="note">Dice is shown with the highest value that the two volumes allow. The '
        "similarity of the images is left out on purpose: it tells no error. For research; not a "
        "medical device.</p></body></html>\n"
    )
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
