"""Every reason not to start is one sentence; what starts reaches the engine in world LPS."""

import numpy as np
import pytest
import slicer
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.engine import packaged
from L2ORegistrationLib.scene import browsers, confidence, transforms, volumes
from L2ORegistrationLib.scene.logic import SceneLogic
from L2ORegistrationLib.scene.settings import Settings


@pytest.fixture
def fixed(kit, add_volume):
    return add_volume(kit.image_on(kit.GRIDS["straight"]), "fixed")


@pytest.fixture
def moving(kit, add_volume):
    return add_volume(kit.image_on(kit.GRIDS["oblique"]), "moving")


@pytest.fixture
def output(scene):
    return scene.AddNewNodeByClass("vtkMRMLTransformNode", "output")


def test_what_fits_has_no_problem(fixed, moving, output):
    assert Settings(fixed, moving, outputTransform=output).problem() == ""


def test_missing_and_equal_volumes(fixed, moving):
    assert Settings().problem() == "Choose a fixed volume."
    assert Settings(fixed).problem() == "Choose a moving volume."
    assert "are the same" in Settings(fixed, fixed).problem()


def test_outputs_that_would_destroy_inputs(fixed, moving, output, add_linear, scene):
    linear = add_linear(np.eye(4))
    cases = {
        "create a new one": Settings(fixed, moving, outputTransform=linear),
        "is the initial one": Settings(
            fixed, moving, outputTransform=output, initialTransform=output
        ),
        "overwrite an input": Settings(fixed, moving, outputVolume=fixed),
    }
    both = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "both")
    cases["two different outputs"] = Settings(fixed, moving, outputVolume=both, outputJacobian=both)
    for sentence, settings in cases.items():
        assert sentence in settings.problem()
    fixed.SetAndObserveTransformNodeID(output.GetID())
    assert "take it out" in Settings(fixed, moving, outputTransform=output).problem()


def test_transforms_that_would_count_twice(fixed, moving, add_linear, output):
    initial = add_linear(np.eye(4), "start")
    moving.SetAndObserveTransformNodeID(initial.GetID())
    assert (
        "already under the initial transform 'start'"
        in Settings(fixed, moving, initialTransform=initial).problem()
    )
    output.SetAndObserveTransformNodeID(initial.GetID())
    problem = Settings(fixed, moving, outputTransform=output).problem()
    assert "'output' is under the transform 'start': take it out" in problem
    assert "or choose another output" in problem


def test_a_transform_that_another_player_leads_is_no_output(fixed, moving, kit, add_volume):
    image = kit.image_on(kit.GRIDS["straight"])
    browser = browsers.make_sequence([add_volume(image, f"p{k}") for k in range(3)])
    sequence = browser.GetScene().AddNewNodeByClass("vtkMRMLSequenceNode", "transforms")
    sequence.SetDataNodeAtValue(slicer.vtkMRMLTransformNode(), "0")
    browser.AddSynchronizedSequenceNode(sequence)
    motion = browsers.as_proxy(browser, sequence, None, "motion")
    problem = Settings(fixed, moving, outputTransform=motion).problem()
    assert "'motion' is played with a sequence: choose another output" in problem


def test_options(fixed, moving):
    assert "choose gauss-newton, l2o" in Settings(fixed, moving, method="magic").problem()
    assert "search, affine" in Settings(fixed, moving, start="magic").problem()
    assert "1 or more" in Settings(fixed, moving, iterations=0).problem()


def test_what_has_no_weights_cannot_start(fixed, moving, tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    for options in ({"method": "lapirn"}, {"method": "voxelmorph++"}, {"method": "l2o"}):
        assert "without trained weights" in Settings(fixed, moving, **options).problem()
        assert Settings(fixed, moving, **options, model="mine.pt").problem() == ""
    assert "The method 'l2o' comes without" in Settings(fixed, moving).problem()
    plain = {"method": "gauss-newton"}
    chosen = Settings(fixed, moving, start="voxelmorph++", **plain)
    assert "The start 'voxelmorph++' comes without trained weights" in chosen.problem()
    chosen = Settings(fixed, moving, start="voxelmorph++", startModel="mine.pt", **plain)
    assert chosen.problem() == "" and "startModel='mine.pt'" in chosen.as_python()
    assert chosen.engine_arguments()["start_model"] == "mine.pt"
    assert Settings(fixed, moving, **plain).problem() == ""


def test_half_a_pair_of_landmarks(fixed, moving, add_points):
    points = add_points(np.zeros((2, 3)))
    assert "Choose the moving landmarks" in Settings(fixed, moving, fixedLandmarks=points).problem()
    assert (
        "Choose fixed and moving landmarks" in Settings(fixed, moving, start="landmarks").problem()
    )


class TestEngineArguments:
    def test_volumes_and_masks_in_the_world(self, scene, kit, fixed, moving, add_linear, askew):
        moving.SetAndObserveTransformNodeID(add_linear(askew).GetID())
        mask = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "mask")
        volumes.set_volume(mask, volumes.to_volume(moving))
        found = Settings(fixed, moving, movingMask=mask, iterations=3).engine_arguments()
        assert found["fixed"].grid.matches(kit.GRIDS["straight"])
        assert found["moving"].grid.matches(volumes.grid_of(moving))
        assert found["moving_mask"].grid.matches(found["moving"].grid)
        assert found["fixed_mask"] is None and found["initial_transform"] is None
        assert found["iterations"] == 3 and "landmarks" not in found

    def test_a_moving_volume_under_the_output_is_taken_as_if_it_were_not(
        self, kit, fixed, moving, output
    ):
        transforms.set_field(output, kit.field_over(kit.GRIDS["straight"]))
        moving.SetAndObserveTransformNodeID(output.GetID())
        assert "non-linear" in Settings(fixed, moving).problem()
        found = Settings(fixed, moving, outputTransform=output).engine_arguments()
        assert found["moving"].grid.matches(kit.GRIDS["oblique"])

    def test_initial_transforms_map_fixed_to_moving(
        self, scene, kit, fixed, moving, add_linear, askew
    ):
        """What sends a moving point to where Slicer shows it is undone by the engine's argument."""
        point = np.array([5.0, -3, 8])
        shown = transforms.ras_lps(askew[:3, :3] @ transforms.ras_lps(point) + askew[:3, 3])
        linear = Settings(fixed, moving, initialTransform=add_linear(askew)).engine_arguments()
        np.testing.assert_allclose(
            (linear["initial_transform"] @ [*shown, 1])[:3], point, atol=1e-9
        )
        bent = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
        field = kit.field_over(kit.GRIDS["straight"])
        transforms.set_field(bent, field)
        found = Settings(fixed, moving, initialTransform=bent).engine_arguments()
        initial = found["initial_transform"]
        inside = kit.GRIDS["straight"].to_world([[3, 4, 5], [20, 20, 18]])
        np.testing.assert_allclose(
            initial.transform_points(inside), field.transform_points(inside), atol=0.15
        )

    def test_landmarks_to_start_from(self, fixed, moving, add_points):
        points = np.array([[1.0, 2, 3], [4, 5, 6]])
        pair = add_points(points, ["a", "b"]), add_points(points[::-1] + 1, ["b", "a"])
        found = Settings(
            fixed, moving, fixedLandmarks=pair[0], movingLandmarks=pair[1], start="landmarks"
        ).engine_arguments()
        np.testing.assert_allclose(found["landmarks"][1], found["landmarks"][0] + 1)

    def test_what_cannot_start_raises_the_same_sentence(self, fixed):
        settings = Settings(fixed, fixed)
        with pytest.raises(InputError) as raised:
            settings.engine_arguments()
        assert str(raised.value) == settings.problem()


class TestAsPython:
    def test_it_runs_and_gives_the_settings_back(self, fixed, moving, scene, output):
        segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "lungs")
        segmentation.GetSegmentation().AddEmptySegment("left", "left")
        settings = Settings(
            fixed,
            moving,
            (segmentation, "left"),
            outputTransform=output,
            iterations=6,
            device="cpu",
        )
        found = {}

        class Stub:
            def register(self, *args, **kwargs):
                found["settings"] = Settings(*args, **kwargs)

        code = SceneLogic().copyAsPython(settings)
        util = slicer.util
        assert code.startswith('slicer.util.getModuleLogic("L2ORegistration").register(')
        code = code.replace('slicer.util.getModuleLogic("L2ORegistration")', "logic")
        exec(code, {"slicer": slicer, "logic": Stub(), "util": util})
        assert found["settings"] == settings
        assert "device='cpu'" in code and "method" not in code

    def test_names_that_occur_twice_or_look_like_patterns_become_ids(self, kit, add_volume):
        image = kit.image_on(kit.GRIDS["straight"])
        one, two, odd = (add_volume(image, name) for name in ("CT", "CT", "CT [lung]"))
        code = Settings(one, two).as_python()
        assert one.GetID() in code and two.GetID() in code
        assert odd.GetID() in Settings(odd, one).as_python()


@pytest.mark.parametrize("role", ["outputVolume", "moving", "fixed"])
def test_what_shows_a_registration_is_no_input_and_no_output(logic, scans, scene, role):
    outcome = logic.register(*scans)
    session = logic.restore(outcome.transform)
    shown = session.preview.volume, confidence.of(outcome.transform)
    for node in shown:
        settings = Settings(*scans)
        setattr(settings, role, node)
        assert "shows a registration" in settings.problem()
    session.close()


def test_a_mask_is_not_written_over(scans, add_volume, kit):
    mask = add_volume(kit.image_on(kit.GRIDS["oblique"]), "mask")
    settings = Settings(*scans, fixedMask=mask, outputVolume=mask)
    assert "would overwrite an input" in settings.problem()
