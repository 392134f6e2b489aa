"""Draw how right and wrong registrations look: python Testing/tools/good_and_bad.py [FILE]

A breathing phantom under three displacement fields: its exact one, two fifths of it, and the exact
one with a wave that folds. FILE is the README's picture where left out.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import matplotlib
import numpy as np
from L2ORegistrationLib.core.geometry import DisplacementField, Volume
from L2ORegistrationLib.phantom.pair import PhantomPair, make_pair
from matplotlib.figure import Figure
from PIL import Image

TARGET = Path(__file__).resolve().parents[2] / "Resources" / "Screenshots" / "good-and-bad.png"
WINDOW = -1000.0, 250.0  # HU
LINES_MM = 10.0  # between the drawn lines of the grid
WAVE = (0.0, 0.0, 20.0)  # mm
WAVE_LENGTH, WAVE_WIDTH = 50.0, 40.0  # mm
AROUND_MM = 22.0  # of the lungs


def main() -> None:
    """Draw the phantom."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=TARGET)
    path = parser.parse_args().file
    pair = make_pair(7, spacing=2.5, amplitude_mm=30.0, swap=False, noise_hu=15.0, sliding=False)
    inside = pair.fixed_mask.marked_points()
    middle = inside.mean(axis=0) + (72, 0, 5)  # in the left lung
    points = pair.fixed.grid.points() - middle
    near = np.exp(-((np.linalg.norm(points, axis=-1) / WAVE_WIDTH) ** 2))
    wave = np.sin(2 * np.pi * points[..., 2] / WAVE_LENGTH) * near
    folded = pair.field.array + wave[..., None] * np.float32(WAVE)
    fields = {
        "good": pair.field,
        "not arrived: two diaphragms, coloured vessels": pair.field.scaled(0.4),
        "folded: lines cross, tissue is torn": DisplacementField(
            folded.astype(np.float32), pair.fixed.grid
        ),
    }
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    row = int(round(pair.fixed.grid.to_index(middle)[1]))
    for axis, (title, field) in zip(figure.subplots(1, 3), fields.items(), strict=True):
        draw(axis, pair, field, row)
        axis.set_title(title, fontsize=12, color="#333333")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    picture = Image.open(buffer).convert("RGB")  # a palette makes it small
    picture.quantize(method=Image.Quantize.MAXCOVERAGE, kmeans=4).save(path, optimize=True)


def draw(axis, pair: PhantomPair, field: DisplacementField, row: int) -> None:
    """A coronal slice: fixed orange, warped blue, the deformed grid over it."""
    warped = field.warp(pair.moving, pair.fixed.grid)
    fixed, moving = (shade(volume, row)[..., None] for volume in (pair.fixed, warped))
    picture = fixed * (1.0, 0.5, 0.0) + moving * (0.0, 0.5, 1.0)
    grid = pair.fixed.grid
    x, _, z = np.moveaxis(grid.points()[:, row], -1, 0)
    size = x.min(), x.max(), z.min(), z.max()
    axis.imshow(picture, origin="lower", extent=size, interpolation="bilinear")
    x, z = (a + field.array[:, row, :, k] for a, k in ((x, 0), (z, 2)))
    every = round(LINES_MM / grid.spacing[0])
    axis.plot(x[:, ::every], z[:, ::every], color="#ffe64d", lw=0.6)
    axis.plot(x[::every].T, z[::every].T, color="#ffe64d", lw=0.6)
    lungs = pair.fixed_mask.marked_points()[:, ::2]
    low, high = lungs.min(axis=0) - AROUND_MM, lungs.max(axis=0) + AROUND_MM
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axis.set_axis_off()


def shade(volume: Volume, row: int) -> np.ndarray:
    """A coronal slice as brightness, 0 to 1."""
    low, high = WINDOW
    return np.clip((volume.array[:, row] - low) / (high - low), 0, 1)


if __name__ == "__main__":
    matplotlib.use("agg")
    main()
