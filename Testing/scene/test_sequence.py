"""A 4DCT as a real MRML sequence: registered, played, cancelled, saved and loaded."""

from types import SimpleNamespace

import numpy as np
import pytest
import slicer
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import DisplacementField
from L2ORegistrationLib.engine.verdict import Verdict
from L2ORegistrationLib.job import Failed, Finished
from L2ORegistrationLib.scene import browsers, nodes, transforms, volumes
from L2ORegistrationLib.scene.breathing_sample import add_breathing_sequence
from L2ORegistrationLib.scene.history import History
from L2ORegistrationLib.scene.nodes import of_class
from L2ORegistrationLib.scene.sequence import SequenceLogic, SequenceRun, SequenceSettings
from L2ORegistrationLib.sequence.phases import read_phases
from matplotlib.image import imsave
from vtk.util import numpy_support

PHASES = 4


class TrialSequence:
    """The protocol of SequenceRegistration in a few lines: phase k moves k times a field."""

    total = PHASES + 1

    def __init__(self, phases, reference=0, gate=None, fail_at=None, kit=None, **others):
        self.phases, self.reference, self.gate, self.fail_at = phases, reference, gate, fail_at
        self.full = kit.field_over(phases[0].grid)
        self.fields = {}

    def __iter__(self):
        for index in range(1, self.total + 1):
            if self.gate is not None:
                self.gate.acquire()
            if index == self.fail_at:
                raise RuntimeError("no luck")
            phase = index % PHASES if index < self.total else 0
            self.fields[phase] = self.full.scaled(phase)
            yield SimpleNamespace(
                index=index, total=self.total, phase=phase, field=self.fields[phase], seconds=0.1
            )

    def result(self):
        whole = len(self.fields) == PHASES
        return SimpleNamespace(
            phases=self.phases,
            fields=dict(self.fields),
            grid=self.phases[0].grid,
            loops={"loop": np.array([0.1, 0.3])} if whole else {},
            provenance={"software": "trial"},
            cancelled=not whole,
            verdict="check",
            verdicts={k: Verdict("check", (f"Look at {k}.",)) for k in self.fields if k},
        )


@pytest.fixture
def breath(scene, add_volume, kit, grid):
    """A browser of four small volumes on every kind of grid."""
    loose = [add_volume(kit.image_on(grid), f"p{k}") for k in range(PHASES)]
    return browsers.make_sequence(loose, "breath")


def trial(kit, **options):
    return lambda **arguments: TrialSequence(kit=kit, **options, **arguments)


def test_the_player_moves_images_and_transforms_together(breath, kit, scene):
    run = SequenceRun(SequenceSettings(breath), factory=trial(kit))
    events = kit.finished(run)
    assert isinstance(events[-1], Finished)
    outcome = run.outcome
    image = browsers.proxy_of(breath)
    assert image.GetTransformNodeID() == outcome.transform.GetID()
    full = kit.field_over(volumes.grid_of(image, below=outcome.transform))
    for phase in (2, 0, 3, 1):
        breath.SetSelectedItemNumber(phase)
        shown = transforms.field_of(outcome.transform)
        assert np.allclose(shown.array, full.scaled(phase).array, atol=1e-5)
        assert shown.grid.matches(full.grid)
        told = outcome.transform.GetAttribute("L2ORegistration.reasons")
        assert told == (f"Look at {phase}." if phase else None)
    assert outcome.registered == [0, 1, 2, 3]
    assert outcome.loops["loop"]["mean"] == pytest.approx(0.2)
    assert outcome.transform.GetAttribute("L2ORegistration.loop, loop") == "0.200 mm"


def test_images_under_a_linear_transform_are_registered_where_they_are(
    breath, kit, add_linear, askew
):
    proxy = browsers.proxy_of(breath)
    parent = add_linear(askew)
    proxy.SetAndObserveTransformNodeID(parent.GetID())
    before = volumes.grid_of(proxy)
    seen = []
    run = SequenceRun(
        SequenceSettings(breath), factory=lambda **a: seen.append(a) or trial(kit)(**a)
    )
    kit.finished(run)
    assert seen[0]["phases"][0].grid.matches(before)
    assert transforms.is_under(proxy, run.outcome.transform)
    assert volumes.grid_of(proxy, below=run.outcome.transform).matches(before)


def test_registering_again_leaves_no_linear_transform_of_the_run_before(
    breath, kit, add_linear, askew, scene
):
    proxy, parent = browsers.proxy_of(breath), add_linear(askew, "L")
    proxy.SetAndObserveTransformNodeID(parent.GetID())
    before = volumes.grid_of(proxy)
    for _ in range(3):
        run = SequenceRun(SequenceSettings(breath), factory=trial(kit))
        kit.finished(run)
        between = proxy.GetParentTransformNode()
        assert volumes.grid_of(proxy, below=run.outcome.transform).matches(before)
        assert between.GetName() == f"L in {run.outcome.transform.GetName()}"
        linear = of_class(scene, "vtkMRMLLinearTransformNode")
        assert {node.GetID() for node in linear} == {parent.GetID(), between.GetID()}


def test_cancel_keeps_the_finished_phases(breath, kit):
    import threading

    gate = threading.Semaphore(2)
    run = SequenceRun(SequenceSettings(breath), factory=trial(kit, gate=gate))
    seen = []
    while len(seen) < 2:
        seen += run.poll()
    run.cancel()
    gate.release(10)
    events = kit.finished(run)
    assert isinstance(events[-1], Finished) and run.outcome.cancelled
    done = run.outcome.registered
    assert {1, 2} <= set(done) and len(done) < PHASES
    breath.SetSelectedItemNumber(1)
    assert transforms.field_of(run.outcome.transform).array.any()


def test_a_failure_leaves_the_scene_as_it_was(breath, kit, scene):
    before, parent = kit.node_ids(scene), browsers.proxy_of(breath).GetTransformNodeID()
    run = SequenceRun(SequenceSettings(breath), factory=trial(kit, fail_at=3))
    events = kit.finished(run)
    assert isinstance(events[-1], Failed) and "no luck" in events[-1].message
    assert kit.node_ids(scene) == before
    assert browsers.proxy_of(breath).GetTransformNodeID() == parent
    assert browsers.motion_of(breath) is None


def test_a_second_run_replaces_the_first_unless_it_fails(breath, kit, scene):
    kit.finished(first := SequenceRun(SequenceSettings(breath), factory=trial(kit)))
    image = browsers.proxy_of(breath)
    kit.finished(SequenceRun(SequenceSettings(breath), factory=trial(kit, fail_at=3)))
    assert image.GetParentTransformNode() is first.outcome.transform
    assert browsers.motion_of(breath) is first.outcome.sequence
    second = SequenceRun(SequenceSettings(breath), factory=trial(kit))
    kit.finished(second)
    assert image.GetParentTransformNode() is second.outcome.transform
    assert first.outcome.sequence.GetScene() is None
    assert first.outcome.transform.GetScene() is None
    breath.SetSelectedItemNumber(2)
    assert transforms.field_of(second.outcome.transform).array.any()
    assert scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode") == 2


def test_a_chosen_transform_is_the_proxy(breath, kit, scene):
    chosen = scene.AddNewNodeByClass("vtkMRMLTransformNode", "mine")
    for _ in range(2):
        run = SequenceRun(SequenceSettings(breath, outputTransform=chosen), factory=trial(kit))
        kit.finished(run)
        assert run.outcome.transform is chosen and chosen.GetName() == "mine"
        breath.SetSelectedItemNumber(3)
        assert transforms.field_of(chosen).array.any()
    assert scene.GetNumberOfNodesByClass("vtkMRMLTransformNode") == 1


def test_a_transform_with_the_iterations_of_a_pair_is_no_proxy(breath, scene):
    chosen = scene.AddNewNodeByClass("vtkMRMLTransformNode", "pair")
    History.create(chosen)
    with pytest.raises(InputError, match="'pair' has a pair's iterations"):
        SequenceRun(SequenceSettings(breath, outputTransform=chosen))


def test_what_lies_under_the_motion_stays_there_in_the_next_run(breath, kit, scene, add_points):
    """Also where the first run used a transform of the user's, which is not deleted."""
    mine = scene.AddNewNodeByClass("vtkMRMLTransformNode", "mine")
    kit.finished(SequenceRun(SequenceSettings(breath, outputTransform=mine), factory=trial(kit)))
    points = add_points([(0, 0, 0)])
    points.SetAndObserveTransformNodeID(mine.GetID())
    for _ in range(2):
        run = SequenceRun(SequenceSettings(breath), factory=trial(kit))
        kit.finished(run)
        assert points.GetParentTransformNode() is run.outcome.transform is not mine
    assert mine.GetScene() is scene
    assert scene.GetNumberOfNodesByClass("vtkMRMLTransformNode") == 2


def test_a_given_transform_comes_back_as_it_was_where_the_run_fails(breath, kit, scene, add_linear):
    given = scene.AddNewNodeByClass("vtkMRMLTransformNode", "mine")
    given.SetMatrixTransformToParent(transforms.matrix_to_vtk(np.diag([1.0, 1, 1, 1])))
    given.SetAttribute("note", "kept")
    before = given.GetTransformFromParent().GetClassName()
    settings = SequenceSettings(breath, outputTransform=given)
    kit.finished(SequenceRun(settings, factory=trial(kit, fail_at=3)))
    assert given.GetScene() is scene and given.GetAttribute("note") == "kept"
    assert given.GetTransformFromParent().GetClassName() == before
    assert transforms.roles(given) == (None, None)


@pytest.mark.parametrize("which", ["transform", "image", "output"])
def test_a_node_that_the_result_needs_and_that_is_taken_away_ends_the_run(
    breath, kit, scene, which
):
    import threading

    gate = threading.Semaphore(1)
    output = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "mean")
    settings = SequenceSettings(breath, outputVolume=output)
    run = SequenceRun(settings, factory=trial(kit, gate=gate))
    while not run.poll():
        pass
    node = {"transform": run._transform, "image": browsers.proxy_of(breath), "output": output}
    name = node[which].GetName()
    scene.RemoveNode(node[which])
    (event,) = run.poll()
    gate.release(10)
    assert f"'{name}' was taken from the scene" in event.message and run.outcome is None


def test_a_browser_that_is_taken_away_ends_the_run(breath, kit, scene, add_linear, askew):
    """Its images, which stay, lie under their own transform again."""
    import threading

    image, own = browsers.proxy_of(breath), add_linear(askew)
    image.SetAndObserveTransformNodeID(own.GetID())
    gate = threading.Semaphore(1)
    run = SequenceRun(SequenceSettings(breath), factory=trial(kit, gate=gate))
    while not run.poll():
        pass
    scene.RemoveNode(breath)
    (event,) = run.poll()
    gate.release(10)
    assert "was taken from the scene" in event.message and not run.active
    assert image.GetScene() is scene and image.GetParentTransformNode() is own


def test_a_registered_breath_is_saved_with_the_scene(scene, add_volume, kit, tmp_path):
    grid = kit.GRIDS["oblique"]
    loose = [add_volume(kit.image_on(grid), f"p{k}") for k in range(PHASES)]
    browser = browsers.make_sequence(loose, "breath")
    run = SequenceRun(SequenceSettings(browser), factory=trial(kit))
    kit.finished(run)
    path = tmp_path / "motion.seq.nrrd"
    node = run.outcome.sequence
    storage = slicer.vtkMRMLTransformSequenceStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    loaded = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "loaded")
    assert storage.ReadData(loaded)
    assert loaded.GetNumberOfDataNodes() == PHASES
    for k in range(PHASES):
        one, other = (transforms.field_of(n.GetNthDataNode(k)) for n in (loaded, node))
        assert one.grid.matches(other.grid) and np.abs(one.array - other.array).max() < 1e-4


def test_the_player_goes_on_after_the_scene_was_saved_as_mrb_and_loaded(
    scene, add_volume, kit, tmp_path
):
    grid = kit.GRIDS["oblique"]
    loose = [add_volume(kit.image_on(grid), f"p{k}") for k in range(PHASES)]
    browser = browsers.make_sequence(loose, "breath")
    run = SequenceRun(SequenceSettings(browser), factory=trial(kit))
    kit.finished(run)
    full = kit.field_over(volumes.grid_of(browsers.proxy_of(browser), run.outcome.transform))
    path = str(tmp_path / "breath.mrb")
    assert scene.WriteToMRB(path)
    scene.Clear(1)
    assert scene.ReadFromMRB(path, True)
    (browser,) = nodes.of_class(scene, "vtkMRMLSequenceBrowserNode")
    image, transform = browsers.proxy_of(browser), browsers.transform_of(browser)
    assert image.GetParentTransformNode() is transform
    assert transform.GetAttribute("L2ORegistration.loop, loop") == "0.200 mm"
    for phase in (3, 0, 2, 1):
        browser.SetSelectedItemNumber(phase)
        shown = transforms.field_of(transform)
        assert shown.grid.matches(full.grid)
        assert np.allclose(shown.array, full.scaled(phase).array, atol=1e-4)
    again = SequenceRun(SequenceSettings(browser), factory=trial(kit))
    kit.finished(again)
    assert image.GetParentTransformNode() is again.outcome.transform
    assert browsers.phases_of(browser)[0].grid.matches(grid)


def test_the_command_line_reads_what_slicer_saves(breath, scene, tmp_path):
    path = tmp_path / "breath.seq.nrrd"
    storage = slicer.vtkMRMLVolumeSequenceStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.WriteData(breath.GetMasterSequenceNode())
    expected = browsers.phases_of(breath)
    found = read_phases([path])
    assert len(found) == PHASES
    for phase, volume in zip(found, expected, strict=True):
        assert phase.volume.grid.matches(volume.grid)
        assert np.array_equal(phase.volume.array, volume.array)


def test_phases_are_read_as_they_are_stored(breath):
    """Whole numbers of 16 bits take half the memory of what is computed with."""
    assert {volume.array.dtype for volume in browsers.phases_of(breath)} == {np.dtype(np.int16)}


def test_a_sequence_that_cannot_be_copied_whole_leaves_nothing(scene, add_volume, kit):
    loose = [add_volume(kit.image_on(kit.GRIDS["straight"]), f"p{k}") for k in range(4)]
    before, making = kit.node_ids(scene), browsers.making_sequence(loose)
    next(making)
    with pytest.raises(MemoryError):
        making.throw(MemoryError())
    assert kit.node_ids(scene) == before


def test_what_is_no_breath_is_refused(scene, add_volume, kit):
    grid = kit.GRIDS["straight"]
    loose = [add_volume(kit.image_on(grid), f"p{k}") for k in range(2)]
    with pytest.raises(InputError, match="at least 3 phases"):
        browsers.make_sequence(loose)
    other = add_volume(kit.image_on(kit.GRIDS["anisotropic"]), "other")
    with pytest.raises(InputError, match="different grids"):
        browsers.make_sequence([*loose, other])
    empty = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "empty")
    with pytest.raises(InputError, match="does not show a sequence of volumes"):
        SequenceLogic().registerSequence(empty)


def view_of(world, volume):
    """A coronal slice view of a volume, as Slicer computes it: a function that returns pixels."""
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLApplicationLogic(world.application)
    logic.SetMRMLScene(world.scene)
    logic.AddSliceNode("Coronal")
    view = logic.GetSliceNode()
    view.SetOrientation("Coronal")
    view.SetDimensions(160, 160, 1)
    view.SetFieldOfView(320, 320, 1)
    grey = nodes.colours(world.scene, "grey", [(0, 0, 0), (1, 1, 1)])
    volume.GetDisplayNode().SetAndObserveColorNodeID(grey.GetID())
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevel(1400.0, -500.0)
    view.JumpSliceByCentering(-70.0, 10.0, 0.0)  # through a lung
    logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())

    def pixels():
        port = logic.GetImageDataConnection()
        port.GetProducer().Update()
        image = port.GetProducer().GetOutputDataObject(port.GetIndex())
        scalars = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        width, height, _ = image.GetDimensions()
        return scalars.reshape(height, width, -1)[::-1, :, 0].astype(float)

    return pixels


@pytest.mark.slow
def test_the_phantom_stands_still_in_the_player(scene, world, tmp_path):
    """The real engine on real nodes: what is seen at the landmarks is the same in every phase."""
    sample = add_breathing_sequence(spacing=5.0, phases=6)
    browser, trajectories = sample["browser"], sample["trajectories"]
    mean = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "mean")
    seen = []
    outcome = SequenceLogic().registerSequence(
        browser, outputVolume=mean, device="cpu", threads=1, spacing=4.0, onPhase=seen.append
    )
    assert [event.phase for event in seen] == [1, 2, 3, 5, 4, 3, 0]
    image = browsers.proxy_of(browser)
    errors, motion, frames = [], [], {"moving": [], "still": []}
    pixels = view_of(world, image)
    for phase in range(6):
        browser.SetSelectedItemNumber(phase)
        frames["still"].append(pixels())
        image.SetAndObserveTransformNodeID(None)
        frames["moving"].append(pixels())
        image.SetAndObserveTransformNodeID(outcome.transform.GetID())
        field = transforms.field_of(outcome.transform)
        assert isinstance(field, DisplacementField)
        there = field.transform_points(trajectories[0])
        errors.append(np.linalg.norm(there - trajectories[phase], axis=1).mean())
        motion.append(np.linalg.norm(trajectories[0] - trajectories[phase], axis=1).mean())
    assert errors[0] == 0 and max(errors) < 1.2  # mm, on voxels of 5 mm
    assert np.mean(errors) < 0.3 * np.mean(motion)
    assert (
        mean.GetImageData().GetDimensions()
        == browsers.proxy_of(browser).GetImageData().GetDimensions()
    )
    changes = {name: np.std(pictures, axis=0).mean() for name, pictures in frames.items()}
    assert changes["moving"] > 3  # grey values: the view shows the breath
    assert changes["still"] < 0.75 * changes["moving"]  # what is left is noise
    rows = [np.hstack(frames[name]) for name in ("moving", "still")]
    imsave(tmp_path / "player.png", np.vstack(rows), cmap="gray", vmin=0, vmax=255)
    assert (tmp_path / "player.png").stat().st_size > 10_000
