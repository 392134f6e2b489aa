"""A real MRML scene with the logics that the desktop would have, and small nodes to put in it."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume  # noqa: E402
from L2ORegistrationLib.job import RegistrationJob  # noqa: E402
from L2ORegistrationLib.scene import run, transforms, volumes  # noqa: E402
from L2ORegistrationLib.scene.logic import SceneLogic  # noqa: E402

_LOGICS = ("Markups", "Sequences", "Transform", "Volumes", "Plots", "Tables", "Models")
_LOGICS += ("SegmentationsModule",)

AXES = np.linalg.qr(np.array([[1, 0.2, 0.1], [-0.25, 1, 0.15], [-0.1, -0.2, 1]]))[0]
AXES = AXES * np.sign(np.diag(AXES))  # a patient who lies a little askew

GRIDS = {
    "straight": Grid((30, 26, 22), (2.0, 2.0, 2.0), (-30, -26, -22)),
    "oblique": Grid((30, 26, 22), (2.0, 2.2, 2.4), (-30, -26, -22), AXES),
    "anisotropic": Grid((40, 44, 12), (1.2, 1.3, 4.5), (-24, -28, -27)),
    "left-handed": Grid((30, 26, 22), (2.1, 2.2, 2.3), (-30, 26, -22), np.diag([1, -1, 1])),
}


@pytest.fixture(scope="session")
def world():
    """The scene and its logics; they follow the scene only as long as somebody holds them."""
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    logics = []
    for name in _LOGICS:
        logic = getattr(slicer, f"vtkSlicer{name}Logic")()
        logic.SetMRMLScene(scene)
        logic.SetMRMLApplicationLogic(application)
        application.SetModuleLogic(name, logic)
        logics.append(logic)
    cache, manager = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    manager.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(manager)
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    return SimpleNamespace(scene=scene, application=application, logics=logics)


@pytest.fixture
def scene(world, monkeypatch):
    """An empty scene, the application's; closed afterwards: no test can lean on another."""
    monkeypatch.setattr(slicer, "mrmlScene", world.scene, raising=False)
    world.scene.Clear(1)
    yield world.scene
    world.scene.Clear(1)


@pytest.fixture(params=GRIDS)
def grid(request):
    """Grids as scanners and exports give them."""
    return GRIDS[request.param]


@pytest.fixture
def add_volume(scene):
    """add_volume(Volume, name, parent=None): a scalar volume node in the scene."""

    def add(volume, name="image", parent=None):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        volumes.set_volume(node, volume)
        if parent is not None:
            node.SetAndObserveTransformNodeID(parent.GetID())
        return node

    return add


@pytest.fixture
def add_linear(scene):
    """add_linear(4x4 RAS to-parent, name): a linear transform node."""

    def add(matrix, name="moved"):
        node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
        node.SetMatrixTransformToParent(transforms.matrix_to_vtk(matrix))
        return node

    return add


@pytest.fixture
def add_points(scene):
    """add_points(LPS points, labels, name): a markups node."""

    def add(points, labels=None, name="points"):
        node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        for i, point in enumerate(transforms.ras_lps(points)):
            node.AddControlPoint(point, labels[i] if labels else f"{name}-{i + 1}")
        return node

    return add


@pytest.fixture
def askew():
    """A rigid RAS to-parent matrix: turned by some degrees and shifted."""
    matrix = np.eye(4)
    matrix[:3, :3] = AXES
    matrix[:3, 3] = (4.0, -6.0, 9.0)
    return matrix


def image_on(grid: Grid) -> Volume:
    """Blobs that have a different value everywhere, in HU-like int16."""
    x, y, z = np.moveaxis(grid.points(), -1, 0)
    values = 300 * np.sin(x / 7) * np.cos(y / 9) + 200 * np.sin(z / 8 + 1) - 400
    return Volume(np.round(values).astype(np.int16), grid)


def field_over(grid: Grid, spacing: float = 4.0, amplitude: float = 3.0) -> DisplacementField:
    """A smooth motion on a world-aligned grid that covers another one; no two axes alike."""
    lattice = Grid.covering(grid.corners(), spacing, margin=spacing)
    p = lattice.points()
    motion = np.stack(
        [np.sin(p[..., 1] / 15), 0.6 * np.cos(p[..., 2] / 13), 1.4 * np.sin(p[..., 0] / 17 + 0.5)],
        axis=-1,
    )
    return DisplacementField((amplitude * motion).astype(np.float32), lattice)


class Trial:
    """The protocol of the engine's Registration, in a few lines: the motion grows step by step.

    fail_at: raise before that step; gate: an event to wait for before each step.
    """

    total = 4

    def __init__(self, fixed, moving, fail_at=None, gate=None, **others):
        self.fixed, self.moving, self.others = fixed, moving, others
        self.fail_at, self.gate = fail_at, gate
        self.full = field_over(fixed.grid)
        self.steps = []

    def __iter__(self):
        for index in range(self.total + 1):
            if self.gate is not None:
                self.gate.acquire()
            if index == self.fail_at:
                raise RuntimeError("no luck")
            share = index / self.total
            self.steps.append(
                SimpleNamespace(
                    index=index,
                    total=self.total,
                    stage="initial" if index == 0 else "l2o",
                    level=min(index, 2),
                    field=self.full.scaled(share),
                    dissimilarity=1.0 - 0.8 * share,
                    seconds=0.1 * index,
                )
            )
            yield self.steps[-1]

    def result(self):
        field = self.steps[-1].field
        return SimpleNamespace(
            field=field,
            warped=lambda: field.warp(self.moving, self.fixed.grid),
            steps=self.steps,
            best=len(self.steps) - 1,
            fixed_mask=Volume(np.ones(self.fixed.grid.shape, bool), self.fixed.grid),
            confidence_image=lambda: Volume(
                np.full(self.fixed.grid.shape, 1.5, np.float32), self.fixed.grid
            ),
            provenance={"version": "0.0", "method": "trial", "seconds": 0.5},
            cancelled=len(self.steps) <= self.total,
        )


def finished(run):
    """All events of a run, polled to its end."""
    events = []
    until = time.monotonic() + 10
    while run.active:
        assert time.monotonic() < until
        events += run.poll()
        time.sleep(0.002)
    return events


def node_ids(scene):
    """The IDs of all nodes, sorted."""
    return sorted(scene.GetNthNode(k).GetID() for k in range(scene.GetNumberOfNodes()))


@pytest.fixture
def kit():
    """The functions and classes above, for tests that need more than a fixture."""
    return SimpleNamespace(
        GRIDS=GRIDS,
        AXES=AXES,
        image_on=image_on,
        field_over=field_over,
        Trial=Trial,
        finished=finished,
        node_ids=node_ids,
    )


@pytest.fixture
def scans(kit, add_volume, add_linear, askew):
    """Fixed and moving volume of different geometry, the moving one under a transform."""
    fixed = add_volume(kit.image_on(kit.GRIDS["oblique"]), "fixed")
    moving = add_volume(kit.image_on(kit.GRIDS["anisotropic"]), "moving", add_linear(askew))
    return fixed, moving


@pytest.fixture
def steer(monkeypatch):
    """steer(trial): registrations are that class, or function, from now on."""

    def replace(trial):
        def job(factory, **arguments):
            return RegistrationJob(factory or trial, **arguments)

        monkeypatch.setattr(run, "RegistrationJob", job)

    return replace


@pytest.fixture
def logic(steer):
    """The logic on the small registration above."""
    steer(Trial)
    return SceneLogic()
