"""The panel in a window, a small phantom in the scene, and an engine at the pace of the test."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import slicer
from L2ORegistrationLib.phantom.pair import make_pair
from L2ORegistrationLib.scene import run as scene_run
from L2ORegistrationLib.scene import transforms, volumes
from standin import application, held, widgets


@pytest.fixture(scope="session")
def app():
    """The stand-in application, started once."""
    return application.start()


@pytest.fixture
def scene(app):
    """An empty scene; whatever other tests use as slicer.mrmlScene is put back."""
    earlier = slicer.mrmlScene
    application.new_scene()
    yield slicer.mrmlScene
    slicer.mrmlScene = earlier


@pytest.fixture
def panel(scene):
    """The module's widget, shown."""
    widget = application.open_panel()
    process_events()
    yield widget
    application.close_panel(widget)


@pytest.fixture
def dialogs(monkeypatch):
    """The texts of the popups that were shown; all are answered with OK."""
    monkeypatch.setattr(widgets.ctkMessageBox, "shown", [])
    return widgets.ctkMessageBox.shown


@pytest.fixture(scope="session")
def pair():
    """Two breathing states of a phantom with voxels of 6 mm."""
    return make_pair(0, spacing=6.0)


@pytest.fixture
def phantom(scene, pair):
    """The pair as nodes, with every 40th landmark, by role."""
    return add_phantom(scene, pair)


def add_phantom(scene, pair):
    """Add the pair to the scene; returns its nodes by role."""
    nodes = {}
    for role in ("moving", "fixed"):  # in an order that the panel has to see through
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"CT {role}")
        volumes.set_volume(node, getattr(pair, role))
        markups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"CT {role} landmarks")
        points = transforms.ras_lps(getattr(pair, role + "_landmarks"))[::40]
        slicer.util.updateMarkupsControlPointsFromArray(markups, points)
        nodes[role], nodes[role + "Landmarks"] = node, markups
    return nodes


def process_events(seconds=0.0):
    """Let Qt work, for a while, with Python's lock kept as in Slicer."""
    held.process_events()
    held.process_events_for(seconds)


def wait_for(condition, seconds=10.0):
    """Let Qt work until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "It did not happen in time."
        process_events(0.02)


def pause_between_clicks():
    """Let so much time pass that the next click is not taken for the same one."""
    process_events(0.6)


class SteeredEngine:
    """The engine's protocol, at the pace of the test: a fraction more of the true field each step.

    Its steps and result have what the module reads of the engine's; torch is not imported.

    `go(n)` lets n more steps happen; without it they all run through. fail: raised in place of
    the step with that index.
    """

    def __init__(self, pair, steps=6, free=True, fail=None):
        self.pair = pair
        self.true_field = pair.field.resampled(_coarse(pair.field.grid))
        self.mask = pair.fixed_mask
        self.total = steps - 1
        self.fail = fail or {}
        self.free = free
        self.allowed = threading.Semaphore(0)
        self.arguments = None
        self.seen = []

    def __call__(self, **arguments):
        self.arguments = arguments
        return self

    def go(self, count=1):
        for _ in range(count):
            self.allowed.release()

    def __iter__(self):
        for index in range(self.total + 1):
            if not self.free:
                self.allowed.acquire()
            if index in self.fail:
                raise self.fail[index]
            stage = ("initial", "start")[index] if index < 2 else "l2o"
            share = index / self.total
            step = SimpleNamespace(
                index=index,
                total=self.total,
                stage=stage,
                level=0,
                field=self.true_field.scaled(share),
                dissimilarity=1 - 0.9 * share,
                seconds=0.1 * index,
            )
            self.seen.append(step)
            yield step

    def result(self):
        last = self.seen[-1]
        return SimpleNamespace(
            field=last.field,
            warped=lambda: last.field.warp(self.arguments["moving"], self.arguments["fixed"].grid),
            best=last.index,
            steps=list(self.seen),
            fixed_mask=self.mask,
            confidence_image=lambda: replace(
                self.mask, array=1.5 * (self.mask.array > 0).astype(np.float32)
            ),
            seconds=1.5,
            provenance={
                "version": "0.1.0",
                "model": "test",
                "confidence_median_mm": 1.5,
                "confidence_p95_mm": 1.5,
                "confidence_unsure": 0.0,
            },
            verdict="good",
            reasons=(),
        )


def _coarse(grid):
    return type(grid).covering(grid.corners(), 8.0)


@pytest.fixture
def engine(panel, phantom, pair, monkeypatch):
    """engine(...) makes the module register with a SteeredEngine(pair, ...) and returns it."""
    process_events()  # the panel picks the phantom's volumes

    def steer(**given):
        steered = SteeredEngine(pair, **given)
        monkeypatch.setattr(
            panel.logic, "start", lambda settings: scene_run.Run(settings, factory=steered)
        )
        return steered

    return steer


@pytest.fixture
def registered(panel, engine):
    """The panel after a registration in six steps."""
    engine()
    panel.ui.registerButton.click()
    wait_for(lambda: not panel._registration.running, 60)  # torch is imported before
    return panel


def grid_magnitude(transform):
    """The largest displacement that a transform node shows, mm."""
    return float(np.abs(transforms.field_of(transform).array).max())
