"""Make the README's pictures: python Testing/scene/pictures.py [FOLDER]

The sample phantom is registered by the real engine, as from Slicer's console. iterations.png has
Slicer's own coronal view of it (slice logic and transform display, off-screen) as the registration
goes on, maps.png the same view with the volume change and the confidence, and panel.png the panel
after the same in its window.
FOLDER is Resources/Screenshots where left out. Needs the packages of the test extra and a library
for off-screen drawing (EGL or OSMesa); takes one to three minutes.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import slicer
import vtk
from headless import Desktop, SliceView
from L2ORegistrationLib.scene import confidence, display, landmarks, nodes, sample
from L2ORegistrationLib.scene.history import title
from L2ORegistrationLib.scene.logic import SceneLogic
from matplotlib.figure import Figure
from PIL import Image

TESTING = Path(__file__).resolve().parents[1]
SHOWN = -1, 2, 4, 8  # iterations (-1: before), and then the result
PIXELS, PIXEL_MM = (340, 280), 0.9
WINDOW = 1250.0, -475.0  # HU
FIXED, MOVING = (1.0, 0.5, 0.0), (0.0, 0.5, 1.0)  # they add up to white
GRID = (1.0, 0.9, 0.3)
INK = "#333333"


def main(folder: str = str(TESTING.parent / "Resources" / "Screenshots")) -> None:
    """Register, then draw."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    desktop = Desktop()
    phantom = sample.add_phantom_pair()
    view = SliceView(desktop, "Coronal", PIXELS, [PIXEL_MM * n for n in PIXELS])
    points = landmarks.of_markups(phantom["fixedLandmarks"]).points * (-1, -1, 1)
    view.node.JumpSliceByCentering(*(np.min(points, axis=0) + np.max(points, axis=0)) / 2)
    display.show_blend(phantom["fixed"], None)
    view.picture()  # colour bars appear in views that are there before them
    outcome = SceneLogic().register(**phantom, onStep=lambda step: print(step.index, step.stage))
    session = SceneLogic().restore(outcome.transform)
    save(maps(view, phantom, outcome.transform), target / "maps.png")
    save(iterations(view, phantom, session), target / "iterations.png")
    panel = [sys.executable, str(TESTING / "window" / "picture.py"), str(target / "panel.png")]
    subprocess.run(panel, check=True, env={"QT_QPA_PLATFORM": "offscreen", **os.environ})


def maps(view: SliceView, phantom: dict, transform) -> Figure:
    """The view with what the panel's buttons for volume change and confidence show."""
    found, _, _ = SceneLogic().addVentilation(transform)
    figure = Figure(figsize=(2 * 5, 4.1), layout="constrained")
    for axis, volume in zip(figure.subplots(1, 2), (found["jacobian"], confidence.of(transform))):
        display.show_blend(phantom["fixed"], volume, 0.6)
        view.update()
        axis.imshow(view.picture(), interpolation="none")
        axis.set_axis_off()
    return figure


def iterations(view: SliceView, phantom: dict, session) -> Figure:
    """The view at some iterations, side by side."""
    warped = session.preview.volume
    for volume, name, colour in ((phantom["fixed"], "fixed", FIXED), (warped, "moving", MOVING)):
        table = nodes.colours(warped.GetScene(), name, [(0, 0, 0), colour])
        volume.GetDisplayNode().SetAndObserveColorNodeID(table.GetID())
        volume.GetDisplayNode().SetWindowLevel(*WINDOW)
    display.show_blend(phantom["fixed"], warped, 1.0)
    view.logic.GetSliceCompositeNode().SetCompositing(slicer.vtkMRMLSliceCompositeNode.Add)
    display.set_grid_visible(session.history.transform)
    lines = session.history.transform.GetDisplayNode()
    lines.SetGridSpacingMm(15)
    one_colour = vtk.vtkColorTransferFunction()  # not those of displacements beside two others
    one_colour.AddRGBPoint(0, *GRID)
    lines.SetColorMap(one_colour)

    history, metrics = session.history, session.history.metrics()
    shown = [*(n + 1 for n in SHOWN if n + 1 < history.result), history.result]
    figure = Figure(figsize=(len(shown) * 3.4, 3.3), layout="constrained")
    for axis, index in zip(figure.subplots(1, len(shown)), shown, strict=True):
        session.select(index)
        axis.imshow(view.picture(), interpolation="none")
        axis.set_axis_off()
        name = title(index).removesuffix(" the registration")
        name += " (result)" if index == history.result else ""
        axis.set_title(f"{name}: {metrics[index]['error']:.2f} mm", fontsize=15, color=INK)
    return figure


def save(figure: Figure, path: Path) -> None:
    """As a .png with a palette, which makes it small, of colours that keep the rare ones."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    picture = Image.open(buffer).convert("RGB")
    picture.quantize(method=Image.Quantize.MAXCOVERAGE, kmeans=4).save(path, optimize=True)
    print(path, path.stat().st_size // 1000, "kB")


if __name__ == "__main__":
    matplotlib.use("agg")
    main(*sys.argv[1:])
