"""What a registration looks like: overlays, maps of the deformation and curves, with matplotlib.

Pictures are drawn on planes of the world (LPS mm), so that oblique and anisotropic images look as
they are. No window is opened and no global state of matplotlib is touched.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import FixedLocator, FormatStrFormatter, Locator, LogLocator, NullLocator

from ..core.geometry import Volume
from ..core.hounsfield import stored_offset
from ..core.jacobian import jacobian_determinant
from .tables import LandmarkPairs, by_step

if TYPE_CHECKING:
    from ..engine.result import Result

_WINDOW = -1100.0, 150.0  # HU shown as black and white
_MARGIN = 20.0  # mm around the lungs
_LEAST_MM = 0.01  # smaller errors are drawn as this one, on an axis that has no zero
_PIXELS = 300  # along the longer side of a plane, at most
_THUMBNAIL, _DPI = 160, 110  # pixels across, about, and of an inch of a figure
_FIXED, _MOVING = np.array([1.0, 0.5, 0.0]), np.array([0.0, 0.5, 1.0])  # they add up to white
_COLOURS = ("#0a6ebd", "#d9730d", "#5b8c2a", "#8a4fbf")
_INK = "#333333"


@dataclass(frozen=True)
class Plane:
    """A picture's plane: points (h, w, 3) in LPS mm, row 0 on top; pixels are square."""

    name: str
    points: np.ndarray


def lung_planes(mask: Volume) -> list[Plane]:
    """Axial, coronal and sagittal plane where each cuts most of the mask; as radiologists look.

    Patient right is on the left of axial and coronal pictures, anterior on the left of sagittal
    ones; anterior or superior is on top.
    """
    inside = mask.marked_points(most=300_000)
    low, high = inside.min(axis=0) - _MARGIN, inside.max(axis=0) + _MARGIN
    pixel = max((high - low).max() / _PIXELS, 0.5)
    axes = [np.arange(a, b, pixel) for a, b in zip(low, high, strict=True)]
    planes = []
    for name, normal, across, down in (
        ("axial", 2, 0, 1),
        ("coronal", 1, 0, 2),
        ("sagittal", 0, 1, 2),
    ):
        rows = axes[down] if name == "axial" else axes[down][::-1]
        points = np.empty((len(rows), len(axes[across]), 3))
        points[..., across], points[..., down] = np.meshgrid(axes[across], rows)
        points[..., normal] = _fullest(inside[:, normal])
        planes.append(Plane(name, points))
    return planes


def overview(result: Result) -> Figure:
    """Fixed, moving and warped moving image, and the overlays before and after, on three planes."""
    planes = lung_planes(result.fixed_mask)
    columns = ("fixed", "moving", "moving, registered", "both, before", "both, after")
    figure, axes = _panels(planes, len(columns))
    for row, plane in zip(axes, planes, strict=True):
        fixed, moving, warped = (
            shades(volume, points)
            for volume, points in (
                (result.fixed, plane.points),
                (result.moving, plane.points),
                (result.moving, result.field.transform_points(plane.points)),
            )
        )
        overlays = (_overlay(fixed, other) for other in (moving, warped))
        for axis, picture in zip(row, (fixed, moving, warped, *overlays), strict=True):
            axis.imshow(np.nan_to_num(picture), cmap="gray", vmin=0, vmax=1)
        row[0].set_ylabel(plane.name, color=_INK)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=10, color=_INK)
    return figure


def thumbnails(result: Result) -> tuple[bytes, bytes]:
    """Small .png files of the overlay before and after, on the coronal plane of the lungs."""
    points = lung_planes(result.fixed_mask)[1].points
    stride = -(-points.shape[1] // _THUMBNAIL)
    points = points[::stride, ::stride]
    fixed = shades(result.fixed, points)
    found = []
    for where in (points, result.field.transform_points(points)):
        picture = np.nan_to_num(_overlay(fixed, shades(result.moving, where)))
        buffer = io.BytesIO()
        imsave(buffer, np.clip(picture, 0, 1), format="png")
        found.append(buffer.getvalue())
    return tuple(found)


def deformation(result: Result) -> Figure:
    """Inside the lungs: how far each point moves, and how the volume there changes (Jacobian)."""
    planes = lung_planes(result.fixed_mask)
    length = Volume(np.linalg.norm(result.field.array, axis=-1), result.field.grid)
    jacobian = jacobian_determinant(result.field)
    inside = result.fixed_mask.sample(length.grid.points(), order=0, outside=0.0) > 0
    low, high = np.percentile(length.array[inside], (0.5, 99.5)) if inside.any() else (0.0, 0.0)
    norms = Normalize(low, max(high, low + 1.0)), LogNorm(0.4, 2.5)
    maps = "viridis", "RdBu_r"
    figure, axes = _panels(planes, 2, transpose=True)
    for row, values, norm, name in zip(axes, (length, jacobian), norms, maps, strict=True):
        for axis, plane in zip(row, planes, strict=True):
            _draw_map(axis, plane, result, values, norm, name, folds=values is jacobian)
    for axis, plane in zip(axes[0], planes, strict=True):
        axis.set_title(plane.name, fontsize=10, color=_INK)
    labels = "displacement (mm)", "volume in moving / in fixed"
    for row, norm, name, label in zip(axes, norms, maps, labels, strict=True):
        bar = figure.colorbar(ScalarMappable(norm, name), ax=list(row), shrink=0.85, extend="both")
        bar.set_label(label, color=_INK)
    _plain_ticks(bar.ax.yaxis, FixedLocator([0.4, 0.6, 1.0, 1.6, 2.5]))  # of the Jacobian
    return figure


def confidence(result: Result) -> Figure:
    """Inside the lungs: the distance that 90 % of such places are off by less than."""
    planes = lung_planes(result.fixed_mask)
    norm, name = LogNorm(0.5, 16.0), "YlOrRd"
    figure, axes = _panels(planes, 1, transpose=True)
    for axis, plane in zip(axes[0], planes, strict=True):
        _draw_map(axis, plane, result, result.confidence, norm, name, folds=False)
        axis.set_title(plane.name, fontsize=10, color=_INK)
    bar = figure.colorbar(ScalarMappable(norm, name), ax=list(axes[0]), shrink=0.85, extend="both")
    bar.set_label("may be off by (mm)", color=_INK)
    _plain_ticks(bar.ax.yaxis, FixedLocator([0.5, 1, 2, 4, 8, 16]))
    return figure


def curves(results: dict[str, Result], pairs: LandmarkPairs | None = None) -> Figure:
    """Dissimilarity and, with landmark pairs, mean error over iterations and over seconds."""
    runs = {name: by_step(result, pairs, regularity=False) for name, result in results.items()}

    def dissimilarity(row: dict) -> float:
        return row["dissimilarity"]

    def error(row: dict) -> float:
        return max(row["tre"]["mean"], _LEAST_MM)

    quantities = [("mean dissimilarity in the lungs", dissimilarity)]
    if pairs is not None:
        quantities.append(("mean landmark error (mm)", error))
    figure = Figure(figsize=(11, 3.1 * len(quantities)), layout="constrained")
    axes = figure.subplots(len(quantities), 2, sharey="row", sharex="col", squeeze=False)
    for line, (label, value) in zip(axes, quantities, strict=True):
        for (name, rows), colour in zip(runs.items(), cycle(_COLOURS), strict=False):
            _draw_run(line, rows, value, colour, name)
        line[0].set_ylabel(label, color=_INK)
        for axis in line:
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
    if pairs is not None:
        _scale_errors(axes[1], [error(row) for rows in runs.values() for row in rows])
    counts = [len(rows) for rows in runs.values()]
    if max(counts) > 3 * min(counts):  # the short run, too, shall be seen
        axes[0, 0].set_xscale("symlog", linthresh=10, linscale=0.6)
        axes[0, 0].set_xlim(-0.5, max(counts) * 1.1)
        ticks = FixedLocator([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000])
        _plain_ticks(axes[0, 0].xaxis, ticks)
    axes[0, 0].legend(frameon=False)
    axes[-1, 0].set_xlabel("iteration (0: start)", color=_INK)
    axes[-1, 1].set_xlabel("seconds", color=_INK)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as the content of a .png file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _fullest(positions: np.ndarray) -> float:
    """The position (mm) around which most of the positions lie."""
    counts, edges = np.histogram(positions, max(int(np.ptp(positions) / 6), 1))
    peak = int(np.argmax(counts))
    return float((edges[peak] + edges[peak + 1]) / 2)


def _panels(planes: list[Plane], count: int, transpose: bool = False):
    """A figure with one row per plane and `count` columns (or transposed), panels to scale."""
    heights = [plane.points.shape[0] for plane in planes]
    widths = [plane.points.shape[1] for plane in planes]
    if transpose:
        ratios = {"width_ratios": [w / h for w, h in zip(widths, heights, strict=True)]}
        shape, size = (count, len(planes)), (sum(ratios["width_ratios"]) * 3.2 + 1.2, 3.3 * count)
    else:
        ratios = {"height_ratios": [h / w for h, w in zip(heights, widths, strict=True)]}
        shape = len(planes), count
        size = (count * 2.6, sum(ratios["height_ratios"]) * 2.6 + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(*shape, squeeze=False, gridspec_kw=ratios)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    return figure, axes


def _plain_ticks(axis: Axis, locator: Locator) -> None:
    """Ticks at these places alone, with numbers as one writes them by hand."""
    axis.set_major_locator(locator)
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_locator(NullLocator())


def _scale_errors(line: np.ndarray, errors: list[float]) -> None:
    """A logarithmic scale for a line of axes that holds these errors (mm), the initial one first.

    The initial error, from which no curve starts, gets a dashed line.
    """
    initial = errors[0]
    for axis in line:
        axis.axhline(initial, color="0.5", lw=0.8, ls="--")
    where = line[0].get_yaxis_transform()  # x as a fraction of the axis, y in mm
    line[0].text(0.98, initial, "initial", transform=where, ha="right", va="bottom")
    line[0].set_ylim(0.8 * min(errors), 1.25 * max(errors))
    line[0].set_yscale("log")
    _plain_ticks(line[0].yaxis, LogLocator(subs=(1, 2, 5)))


def shades(volume: Volume, points: np.ndarray) -> np.ndarray:
    """A CT at points as shades of the window, 0 (black) to 1 (white); NaN where it ends."""
    low, high = _WINDOW
    values = volume.sample(points, outside=np.nan) - stored_offset(volume.array)
    return np.clip((values - low) / (high - low), 0, 1)


def _overlay(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Orange where only fixed is bright, blue where only moving is, grey where both agree.

    Where one of them ends (NaN) there is nothing that agrees, and the other has its own colour.
    """
    fixed, moving = np.nan_to_num(fixed), np.nan_to_num(moving)
    return fixed[..., None] * _FIXED + moving[..., None] * _MOVING


def _draw_run(axes, rows: list[dict], value: Callable, colour: str, name: str) -> None:
    """One run over iterations and over seconds, from the start on; the kept step in a circle."""
    ran = rows[1:] or rows
    values = [value(row) for row in ran]
    iterations = [max(0, row["index"] - 1) for row in ran]
    for axis, x in zip(axes, (iterations, [row["seconds"] for row in ran]), strict=True):
        axis.plot(x, values, marker="o" if len(ran) < 60 else "", ms=3, color=colour, label=name)
        for i, row in enumerate(ran):
            if row["best"]:
                axis.plot(x[i], values[i], "o", ms=8, mfc="none", color=colour)
            if i > 1 and row["level"] != ran[i - 1]["level"]:
                axis.axvline((x[i - 1] + x[i]) / 2, color=colour, lw=0.7, ls=":", alpha=0.7)


def _draw_map(
    axis, plane: Plane, result: Result, values: Volume, norm, colours: str, folds: bool
) -> None:
    """Values in the lungs over the fixed image; folds: mark where they are not positive."""
    axis.imshow(np.nan_to_num(shades(result.fixed, plane.points)), cmap="gray", vmin=0, vmax=1)
    outside = result.fixed_mask.sample(plane.points, order=0, outside=0.0) == 0
    shown = np.ma.masked_where(outside, values.sample(plane.points))
    axis.imshow(shown, cmap=colours, norm=norm, interpolation="nearest")
    folded = (shown <= 0).filled(False)
    if folds and folded.any():
        marks = np.ma.masked_where(~folded, np.ones(folded.shape))
        axis.imshow(marks, cmap="autumn", vmin=1, vmax=2, interpolation="nearest")
