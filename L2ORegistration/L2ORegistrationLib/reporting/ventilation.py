"""Files and picture of the ventilation: maps, table by region, and what they look like."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..core.files import write_volume
from ..core.geometry import Volume
from ..core.paths import atomic
from ..outputs.ventilation import SCALE_MM, Ventilation
from . import page
from .pictures import lung_planes, png, shades
from .tables import plain

_UNKNOWN = -1.0  # in the files: less than any part of a lung can gain, while 0 is no gain
_MAPS = {
    "jacobian": "ventilation by Jacobian: volume gained / volume at expiration",
    "hu": "ventilation by HU: volume gained / volume at expiration",
}


def picture(found: Ventilation, fixed: Volume, lungs: Volume) -> Figure:
    """Both maps over the fixed image on three planes, on one scale, and the means by region."""
    planes = lung_planes(lungs)
    widths = [p.points.shape[1] / p.points.shape[0] for p in planes]
    figure = Figure(figsize=(sum(widths) * 3.2 + 1.6, 9.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2.1, 1))
    axes = above.subplots(2, 3, gridspec_kw={"width_ratios": widths})
    values = found.jacobian.array[np.isfinite(found.jacobian.array)]
    norm = Normalize(min(0.0, float(np.percentile(values, 1))), float(np.percentile(values, 99)))
    for row, (name, title) in zip(axes, _MAPS.items(), strict=True):
        volume = getattr(found, name)
        for axis, plane in zip(row, planes, strict=True):
            image = np.nan_to_num(shades(fixed, plane.points))
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            inside = lungs.sample(plane.points, order=0, outside=0.0) > 0
            shown = volume.sample(plane.points, order=0, outside=np.nan)  # NaN: nothing is known
            shown = np.ma.masked_invalid(np.where(inside, shown, np.nan))
            axis.imshow(shown, cmap="viridis", norm=norm, interpolation="nearest")
            axis.set_axis_off()
            pixel = abs(plane.points[0, 1] - plane.points[0, 0]).max()
            height = plane.points.shape[0]
            axis.plot([8, 8 + 50 / pixel], [height - 8] * 2, color="white", lw=2)
            axis.text(8, height - 12, "50 mm", color="white", fontsize=8)
            axis.set_title(plane.name, fontsize=9)
        bar = above.colorbar(ScalarMappable(norm, "viridis"), ax=list(row), extend="both")
        bar.set_label(title.replace(": ", ":\n"), fontsize=8)
    axis = below.subplots()
    names = list(found.regions)
    x = np.arange(len(names))
    for shift, (name, colour) in zip((-0.2, 0.2), (("jacobian", "#0a6ebd"), ("hu", "#d9730d"))):
        axis.bar(x + shift, [found.regions[n][name] for n in names], 0.4, color=colour, label=name)
    axis.set_xticks(x, [n.replace(" ", "\n", 1) for n in names], fontsize=8)
    axis.set_ylabel("volume gained / volume at expiration", fontsize=8)
    axis.axhline(0, color="0.5", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    scale = f"fixed is {found.fixed_is}; averaged over {SCALE_MM:g} mm (sd)"
    axis.set_title(f"By region ({scale})", fontsize=9)
    return figure


def section(found: Ventilation, fixed: Volume, lungs: Volume) -> str:
    """Maps with their scales and the means by region as HTML, for a report."""
    lines = [
        [
            escape(name),
            f"{row['volume_ml']:.0f}",
            f"{row['change_ml']:+.0f}",
            f"{100 * row['jacobian']:+.1f}",
            f"{100 * row['hu']:+.1f}",
            f"{100 * row['low']:.0f}",
        ]
        for name, row in found.regions.items()
    ]
    head = ["region", "ml at expiration", "ml gained", "by Jacobian %", "by HU %", "low %"]
    source = page.embedded(png(picture(found, fixed, lungs)))
    return (
        f"<p>{escape(found.sentence())}</p>"
        f'<img alt="Ventilation by Jacobian and by HU, and by region" src="{source}">'
        f'<div class="scroll">{page.table(head, lines)}</div>'
        '<p class="note">Gain from expiration to inspiration per volume at expiration. Low: share '
        "of the region that fills less than half as much as the lungs do on average.</p>"
    )


def write(found: Ventilation, fixed: Volume, lungs: Volume, folder: Path) -> list[Path]:
    """Write the maps (.nii.gz, -1 where nothing is known), ventilation.json and .png to a folder.

    That is outside the lungs, and by HU where the scans don't both show lung with air.
    """
    paths = []
    for name in ("jacobian", "hu", "specific"):
        volume = getattr(found, name)
        paths.append(folder / f"ventilation-{name}.nii.gz")
        write_volume(Volume(np.nan_to_num(volume.array, nan=_UNKNOWN), volume.grid), paths[-1])
    about = {
        "fixed_is": found.fixed_is,
        "scale_mm": SCALE_MM,
        "mass_change": found.mass,
        "unseen": found.unseen,
        "unknown_value": _UNKNOWN,
        "unit": "volume gained from expiration to inspiration per volume at expiration",
        "regions": found.regions,
    }
    paths += [folder / "ventilation.json", folder / "ventilation.png"]
    text = json.dumps(plain(about), indent=1, allow_nan=False)
    contents = text.encode(), png(picture(found, fixed, lungs))
    for path, content in zip(paths[-2:], contents, strict=True):
        with atomic(path) as temporary:
            temporary.write_bytes(content)
    return paths
