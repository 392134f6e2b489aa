"""One HTML file that shows what a registration did: pictures, curves, numbers, provenance.

Everything is inside the file, so it can be mailed and opens without a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from .. import __version__
from ..core.geometry import Grid
from ..core.paths import at_home, atomic, check_writable
from . import page
from .tables import LandmarkPairs, table

if TYPE_CHECKING:
    from ..engine.result import Result

_BODY = Template("""$verdict
<p>$summary</p>
$warnings
<h2>Numbers</h2>
<div class="scroll">$numbers</div>
<p class="note">$legend</p>
<h2>Before and after</h2>
<p class="note">In the two columns on the right the fixed image is
<span class="orange">orange</span> and the moving one <span class="blue">blue</span>; where both
agree the sum is grey. Where one scan shows nothing, the other has its own colour.</p>
<img alt="Fixed, moving and registered image on three planes" src="$overview">
<h2>Step by step</h2>
<p class="note">Dotted lines: the next level of the pyramid; the circle: the step that was kept.</p>
<img alt="Dissimilarity and landmark error over iterations and seconds" src="$curves">
<h2>The deformation</h2>
<p class="note">Below: red expands from fixed to moving, blue contracts; yellow-red marks folds,
where the field cannot be inverted.</p>
<img alt="Displacement and Jacobian determinant in the lungs" src="$deformation">
$sections
<h2>Provenance</h2>
$provenance""")

_LEGEND = (
    "All inside the fixed lung mask. Folding: part of it where the Jacobian determinant is not "
    "positive; SDlogJ: standard deviation of the determinant's logarithm; (Learn2Reg): the same of "
    "the determinant plus 3, as that challenge's scripts compute it."
)
_TRE_LEGEND = (
    "TRE: distance in mm between where the transform leads the {count} fixed landmarks and their "
    "partners; snapped: the same, rounded to the nearest voxel centre of the moving image first. "
)


def write_report(
    results: dict[str, Result],
    folder: str | Path,
    pairs: LandmarkPairs | None = None,
    *,
    title: str = "Lung CT registration",
    details: dict[str, str] | None = None,
    warnings: tuple[str, ...] = (),
    sections: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write report.html and overview.png to an existing folder; returns both paths.

    results: by the name of the method, of the same two images; the first is the one in the
    pictures. pairs: landmarks (fixed, moving), (N, 3) LPS mm. details: what else belongs to the
    provenance. warnings: sentences shown on top. sections: what else was found, HTML by heading,
    such as `quality.section` and `ventilation.section` make. Raises InputError when the folder is
    missing or cannot be written to.
    """
    from . import pictures  # matplotlib takes a second to import

    folder = at_home(folder)
    check_writable(folder)
    result = next(iter(results.values()))
    overview = pictures.png(pictures.overview(result))
    rows = table(results, pairs)
    body = _BODY.substitute(
        verdict=_verdicts(results),
        summary=_summary(results, rows),
        warnings=page.warned(warnings),
        numbers=_numbers(rows),
        legend=(_TRE_LEGEND.format(count=len(pairs[0])) if pairs else "") + _LEGEND,
        overview=page.embedded(overview),
        curves=page.embedded(pictures.png(pictures.curves(results, pairs))),
        deformation=page.embedded(pictures.png(pictures.deformation(result))),
        sections="".join(
            f"<h2>{escape(heading)}</h2>{content}" for heading, content in (sections or {}).items()
        ),
        provenance=_provenance(results, details or {}),
    )
    paths = [folder / "report.html", folder / "overview.png"]
    for path, content in zip(paths, (page.page(title, body).encode(), overview), strict=True):
        with atomic(path) as temporary:
            temporary.write_bytes(content)
    return paths


def _verdicts(results: dict[str, Result]) -> str:
    """A line for each result: what to think of it, and why."""
    lines = []
    for name, result in results.items():
        prefix = f"{name}: " if len(results) > 1 else ""
        text = escape(" ".join((f"{prefix}{result.verdict}.", *result.reasons)))
        lines.append(f'<p class="verdict {result.verdict}">{text}</p>')
    return "".join(lines)


def _summary(results: dict[str, Result], rows: dict[str, dict]) -> str:
    name, result = next(iter(results.items()))
    folded = 100 * rows[name]["jacobian"]["folding"]
    made = max(0, len(result.steps) - 2)  # beside what was before, and the start
    parts = [f"{escape(name)}: {made} iterations in {result.seconds:.1f} s"]
    if "tre" in rows[name]:
        before, after = (rows[key]["tre"]["mean"] for key in ("Initial", name))
        parts.append(f"mean landmark error {before:.2f} → <b>{after:.2f} mm</b>")
    parts.append("no folding in the lungs" if not folded else f"{folded:.3g} % folding")
    return ", ".join(parts) + "."


def _numbers(rows: dict[str, dict]) -> str:
    """The table of measures, one row each for the initial state, the start and every method."""
    with_tre = "tre" in rows["Initial"]
    head = ["", "folding %", "min J", "SDlogJ", "SDlogJ (Learn2Reg)", "seconds"]
    if with_tre:
        head[1:1] = ["TRE mean", "SD", "median", "p95", "worst 30 %", "max", "snapped mean"]
    lines = []
    for name, row in rows.items():
        jacobian = row["jacobian"]
        cells = [
            f"{100 * jacobian['folding']:.3g}",
            f"{jacobian['min']:.2f}",
            f"{jacobian['sdlogj']:.3f}",
            f"{jacobian['sdlogj_learn2reg']:.3f}",
            f"{row['seconds']:.1f}" if "seconds" in row else "",
        ]
        if with_tre:
            keys = ("mean", "sd", "median", "p95", "worst30", "max")
            cells[:0] = [f"{row['tre'][key]:.2f}" for key in keys]
            cells.insert(len(keys), f"{row['snapped']['mean']:.2f}")
        lines.append([escape(name), *cells])
    return page.table(head, lines)


def _provenance(results: dict[str, Result], details: dict[str, str]) -> str:
    result = next(iter(results.values()))
    facts = {"L2O Registration": __version__, **details}
    for name, volume in (("fixed grid", result.fixed), ("moving grid", result.moving)):
        facts[name] = _described(volume.grid)
    for name, one in results.items():
        prefix = f"{name}: " if len(results) > 1 else ""
        facts |= {f"{prefix}{key}": value for key, value in one.provenance.items()}
    return page.facts(facts)


def _described(grid: Grid) -> str:
    size = " x ".join(map(str, grid.size))
    return f"{size} voxels of {' x '.join(f'{s:.3g}' for s in grid.spacing)} mm"
