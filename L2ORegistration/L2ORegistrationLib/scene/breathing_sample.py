"""The breathing phantom in ten phases as a sequence browser, made here in seconds."""

from __future__ import annotations

import numpy as np
import slicer

from .. import job
from ..phantom.breathing import make_breathing
from . import nodes, transforms, volumes
from .browsers import make_sequence

_SEED, _SPACING, _AMPLITUDE = 7, 2.5, 15.0  # mm: a patient drawn quickly, with a quiet breath
_LANDMARKS = 100  # of thousands of vessel branches
_WINDOW = 1400.0, -500.0  # width and level in HU, the usual lung window


def add_breathing_sequence(spacing: float = _SPACING, phases: int = 10) -> dict:
    """Add a 4DCT of the phantom and the landmarks of its first phase to the scene.

    Returns the nodes "browser" and "landmarks", and "trajectories": (phases, N, 3), LPS mm, where
    the landmarks are in each phase.
    """
    scene = slicer.mrmlScene
    job.loaded(job.LOADING_SECONDS)
    breath = make_breathing(_SEED, phases=phases, spacing=spacing, amplitude_mm=_AMPLITUDE)
    loose = []
    for number, volume in enumerate(breath.phases):
        node = nodes.unique(scene, "vtkMRMLScalarVolumeNode", f"Phantom phase {number}")
        whole = np.round(volume.array).astype(np.int16)
        volumes.set_volume(node, type(volume)(whole, volume.grid), window=_WINDOW)
        loose.append(node)
    browser = make_sequence(loose, "Phantom 4DCT")
    nodes.remove(*loose)
    count = breath.trajectories.shape[1]
    chosen = np.linspace(0, count - 1, min(_LANDMARKS, count)).astype(int)
    trajectories = breath.trajectories[:, chosen]
    points = nodes.unique(scene, "vtkMRMLMarkupsFiducialNode", "Phantom 4DCT landmarks")
    for number, point in enumerate(transforms.ras_lps(trajectories[0]), start=1):
        points.AddControlPoint(point, str(number))
    points.SetLocked(True)
    return {"browser": browser, "landmarks": points, "trajectories": trajectories}
