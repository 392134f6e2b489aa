"""Prints how long a step takes on the main thread: a 96x96x104 field, 200^3 volumes, three views.

Run with L2ORegistration on PYTHONPATH; needs slicer-core, no display.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
from headless import Desktop, SliceView
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.scene import display, volumes
from L2ORegistrationLib.scene.run import Run
from L2ORegistrationLib.scene.settings import Settings

STEPS = 12
FIELD = Grid((96, 96, 104), (3.2, 3.2, 3.0), (-153, -153, -156))
IMAGE = Grid((200, 200, 200), (1.5, 1.5, 1.5), (-150, -150, -150))


class Trial:
    """The engine's protocol with a ready-made motion, so that only the scene's work is measured."""

    total = STEPS - 1

    def __init__(self, fixed, **others):
        x, y, z = np.moveaxis(FIELD.points(), -1, 0)
        motion = [6 * np.sin(z / 40), 9 * np.cos(x / 50), 14 * np.sin(y / 60)]
        self.field = DisplacementField(np.stack(motion, -1).astype(np.float32), FIELD)
        self.fixed = fixed

    def __iter__(self):
        for index in range(STEPS):
            time.sleep(0.15)
            yield SimpleNamespace(
                index=index,
                total=self.total,
                stage="l2o",
                level=0,
                field=self.field.scaled(index / self.total),
                dissimilarity=1 / (1 + index),
                seconds=0.15 * index,
            )

    def result(self):
        whole = Volume(np.ones(IMAGE.shape, bool), IMAGE)
        return SimpleNamespace(
            field=self.field,
            best=self.total,
            fixed_mask=whole,
            confidence_image=lambda: Volume(np.ones(IMAGE.shape, np.float32), IMAGE),
            provenance={},
        )


def main():
    desktop = Desktop()
    image = np.random.default_rng(0).integers(-1000, 300, IMAGE.shape).astype(np.int16)
    names = "fixed", "moving", "warped", "jacobian"
    nodes = [desktop.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in names]
    for node in nodes[:2]:
        volumes.set_volume(node, Volume(image, IMAGE))
    views = [
        SliceView(desktop, name, (500, 500), (300, 300))
        for name in ("Axial", "Sagittal", "Coronal")
    ]
    display.show_blend(*nodes[:2])  # images are on display before somebody registers them
    _draw(views)
    settings = Settings(nodes[0], nodes[1], outputVolume=nodes[2], outputJacobian=nodes[3])

    run, start = _timed(lambda: Run(settings, factory=Trial))
    polls, draws = [], []
    while run.active:
        polls.append(_timed(run.poll)[1])
        draws += [_timed(view.update)[1] for view in views]  # each in an event of its own
        time.sleep(0.02)
    print(f"start                        {1000 * start:6.0f} ms")
    print(f"longest poll while it runs   {1000 * max(polls):6.0f} ms")
    print(f"longest drawing of a view    {1000 * max(draws):6.0f} ms")

    session = run.session
    order = [3, 7, 0, 11, 5, 6, 1, 10, 2, 9]
    bare = [_timed(lambda i=i: session.select(i))[1] for i in order]
    drawn = [_timed(lambda i=i: (session.select(i), _draw(views)))[1] for i in order]
    strengths = np.linspace(0, 0.9, 10)

    def fade(strength):
        session.strength = strength
        _draw(views)

    faded = [_timed(lambda s=s: fade(s))[1] for s in strengths]
    for name, times in (("select", bare), ("select and draw", drawn), ("strength", faded)):
        print(f"{name:28} {1000 * np.median(times):6.0f} ms, worst {1000 * max(times):.0f} ms")


def _timed(action):
    began = time.perf_counter()
    result = action()
    return result, time.perf_counter() - began


def _draw(views):
    for view in views:
        view.update()


if __name__ == "__main__":
    main()
