"""The breathing phantom as nodes: two CTs and landmarks with known motion, made here in seconds."""

from __future__ import annotations

import numpy as np
import slicer

from .. import job
from ..phantom.pair import make_pair
from . import nodes, transforms, volumes

_SEED, _SPACING, _AMPLITUDE = 7, 2.5, 22.0  # mm: a patient drawn quickly, with a deep breath
_LANDMARKS = 100  # of thousands of vessel branches
_GLYPH_MM = 2.5  # small enough to see the vessel branch below
_WINDOW = 1400.0, -500.0  # width and level in HU, the usual lung window


def add_phantom_pair(spacing: float = _SPACING) -> dict:
    """Add expiration (fixed), inspiration (moving) and their landmark lists to the scene.

    Returns the nodes by "fixed", "moving", "fixedLandmarks" and "movingLandmarks".
    """
    scene = slicer.mrmlScene
    job.loaded(job.LOADING_SECONDS)
    pair = make_pair(_SEED, spacing=spacing, amplitude_mm=_AMPLITUDE, swap=False)
    found = {}
    for role, phase in (("fixed", "expiration"), ("moving", "inspiration")):
        node = nodes.unique(scene, "vtkMRMLScalarVolumeNode", f"Phantom {phase}")
        volumes.set_volume(node, getattr(pair, role), window=_WINDOW)
        points = nodes.unique(scene, "vtkMRMLMarkupsFiducialNode", f"Phantom {phase} landmarks")
        ras = transforms.ras_lps(getattr(pair, f"{role}_landmarks"))
        ras = ras[np.linspace(0, len(ras) - 1, _LANDMARKS).astype(int)]
        for number, point in enumerate(ras, start=1):
            points.AddControlPoint(point, str(number))
        points.SetLocked(True)
        if points.GetDisplayNode() is None:
            points.CreateDefaultDisplayNodes()
        display = points.GetDisplayNode()
        display.SetPointLabelsVisibility(False)
        display.SetUseGlyphScale(False)  # their size would follow the view's
        display.SetGlyphSize(_GLYPH_MM)
        found[role], found[f"{role}Landmarks"] = node, points
    return found
