"""One frame and one look for the pages of all reports, and the parts that they are made of."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from string import Template

from .. import __version__

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p { margin: .3rem 0; }
.note { color: #666; font-size: .9rem; }
.warning { background: #fff4d6; border-left: 4px solid #e0a800; padding: .4rem .8rem; }
.verdict { font-weight: 600; border-left: 4px solid; padding: .4rem .8rem; }
.good { background: #e6f4ea; border-color: #2e7d32; }
.check { background: #fff4d6; border-color: #e0a800; }
.failed { background: #fdecea; border-color: #c62828; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #888; font-weight: 600; }
td.text { text-align: left; word-break: break-word; }
img { width: 100%; height: auto; }
.orange { color: #c55f00; font-weight: 600; } .blue { color: #0066c2; font-weight: 600; }
"""

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
$body
<p class="note">L2O Registration $version. For research; not a medical device.</p>
</body>
</html>
""")


def page(title: str, body: str, style: str = "") -> str:
    """A whole page. body: HTML; style: CSS beside that of all pages."""
    look = _STYLE + style
    return _PAGE.substitute(title=escape(title), style=look, body=body, version=__version__)


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in line) + "</tr>" for line in lines)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def facts(values: Mapping[str, object]) -> str:
    """A table of names and what they stand for, as text; without those that are empty."""
    lines = "".join(
        f'<tr><td>{escape(name)}</td><td class="text">{escape(str(value))}</td></tr>'
        for name, value in values.items()
        if value not in ("", None)
    )
    return f'<div class="scroll"><table><tbody>{lines}</tbody></table></div>'


def warned(sentences: Iterable[str]) -> str:
    """A paragraph for each sentence that should not be overlooked."""
    return "".join(f'<p class="warning">{escape(sentence)}</p>' for sentence in sentences)


def embedded(content: bytes, kind: str = "png") -> str:
    """A picture as the source of an image within the page."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()
