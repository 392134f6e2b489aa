"""The error after each iteration, Adam beside L2O: the paper's comparison as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.files import atomic
from .methods import METHODS
from .run import Run

# A colour for each method and a line for each start; told apart without colours as well.
_STYLES = {
    "adam-affine": ("#d95f02", "--"),
    "adam-search": ("#d95f02", "-"),
    "l2o-affine": ("#1b6ca8", "--"),
    "l2o-search": ("#1b6ca8", "-"),
    "l2o-keypoints": ("#1b6ca8", ":"),
}


def curves(runs: list[Run]) -> dict[str, dict[str, np.ndarray]]:
    """{data set: {method: mean TRE (mm) after each iteration, from the start on, (steps,)}}.

    The average over the cases with points, up to the shortest of them.
    """
    found: dict = {}
    for run in runs:
        errors = [s["mean"] for s in run.result.get("steps", ()) if s["index"] and "mean" in s]
        if errors:
            found.setdefault(run.dataset, {}).setdefault(run.method, []).append(errors)
    return {
        dataset: {
            method: np.mean([row[: min(map(len, rows))] for row in rows], axis=0)
            for method, rows in methods.items()
        }
        for dataset, methods in found.items()
    }


def draw(runs: list[Run], path: Path) -> bool:
    """Write the picture, a panel for each data set. False where no run has iterations."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = curves(runs)
    if not found:
        return False
    figure = Figure(figsize=(4.6 * len(found), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (dataset, methods) in zip(panels, found.items(), strict=True):
        for method, errors in methods.items():
            colour, line = _STYLES[method]
            axes.plot(errors, line, color=colour, label=METHODS[method].title, linewidth=1.8)
        axes.set(title=dataset, xlabel="iterations", ylim=(0, None))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean TRE in mm")
    panels[-1].legend(frameon=False)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return True
