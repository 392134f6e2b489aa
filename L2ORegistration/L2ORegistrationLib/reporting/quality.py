"""The QA page: TG-132's table in one HTML file, with what else speaks for or against the result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from ..core.paths import atomic
from ..outputs.quality import Row
from . import page

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
    return said + page.table(["TG-132", "where", "tolerance", "measured", ""], lines)


def write_page(
    rows: list[Row],
    path: Path,
    title: str,
    known: Mapping[str, object] | None = None,
    warnings: Iterable[str] = (),
    worst: Iterable[tuple[str, float, float]] = (),
) -> None:
    """Write the page, all or nothing. Raises InputError where it cannot be written.

    known: what was measured, and what else is known of it, such as the files; warnings: sentences
    on top; worst: name of a landmark and its error before and after, mm, the largest first.
    """
    parts = [
        "<p>Quality of a deformable registration after AAPM TG-132, table III.</p>",
        page.warned(warnings),
        section(rows),
        '<p class="note">Dice is shown with the highest value that the two volumes allow. The '
        "similarity of the images is left out on purpose: it tells no error.</p>",
    ]
    if lines := [[escape(name), f"{a:.2f}", f"{b:.2f}"] for name, a, b in worst]:
        head = "landmark", "error before, mm", "after"
        parts += ["<h2>The landmarks that are furthest off</h2>", page.table(head, lines)]
    if known:
        parts += ["<h2>What was measured</h2>", page.facts(known)]
    content = page.page(title, "\n".join(parts), "td, th { text-align: left; }")
    with atomic(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
