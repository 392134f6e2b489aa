"""The error after each iteration, method beside method: the paper's comparison as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.files import atomic
from ..engine import catalogue
from .methods import METHODS
from .run import Measurement

_LINES = {"affine": "--", "search": "-", "keypoints": ":", "voxelmorph++": "-.", "network": ":"}
_WIDTHS = 2.8, 1.2  # of the first and of the last line


def _style(row: str) -> tuple[str, str]:
    """A colour for each method and a line for each start; told apart without colours as well."""
    method, start = row.rsplit("-", 1)
    return catalogue.METHODS[method].colour, _LINES[start]


def curves(runs: list[Measurement]) -> dict[str, dict[str, np.ndarray]]:
    """{data set: {method: mean TRE (mm) after each iteration, from the start on, (steps,)}}.

    The average over the cases with points that all of these methods registered, or a method would
    look better by failing on a hard one; up to the shortest of them. Nothing where there are none.
    """
    found: dict = {}
    for run in runs:
        errors = [s["mean"] for s in run.result.get("steps", ()) if s["index"] and "mean" in s]
        if errors:
            found.setdefault(run.dataset, {}).setdefault(run.method, {})[run.case] = errors
    curves = {}
    for dataset, methods in found.items():
        common = set.intersection(*(set(cases) for cases in methods.values()))
        for method, cases in methods.items() if common else ():
            rows = [cases[case] for case in cases if case in common]
            shortest = min(map(len, rows))
            mean = np.mean([row[:shortest] for row in rows], axis=0)
            curves.setdefault(dataset, {})[method] = mean
    return curves


def draw(runs: list[Measurement], path: Path) -> bool:
    """Write the picture, a panel for each data set. False where no run has iterations."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    found = curves(runs)
    if not found:
        return False
    figure = Figure(figsize=(4.6 * len(found) + 2, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (dataset, methods) in zip(panels, found.items(), strict=True):
        widths = np.linspace(*_WIDTHS, max(len(methods), 2))  # those below show beside those above
        for (method, errors), width in zip(methods.items(), widths):
            colour, line = _style(method)
            axes.plot(errors, line, color=colour, label=METHODS[method].title, linewidth=width)
        axes.set(title=dataset, xlabel="iterations", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean TRE in mm")
    lines = panels[-1].get_legend_handles_labels()
    figure.legend(*lines, loc="outside right center", frameon=False)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return True
