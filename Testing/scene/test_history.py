"""The iterations live in the scene: exact, apart from the shown node, and kept in saved files."""

import numpy as np
import pytest
import slicer
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.scene import transforms
from L2ORegistrationLib.scene.curve import Curve
from L2ORegistrationLib.scene.history import History, title
from L2ORegistrationLib.scene.session import Session

STEPS = 4


@pytest.fixture
def full(kit):
    return kit.field_over(kit.GRIDS["oblique"])


@pytest.fixture
def history(scene, full):
    transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "registration")
    history = History.create(transform)
    for index in range(STEPS):
        share = index / (STEPS - 1)
        history.append(
            full.scaled(share), dissimilarity=1 - share / 2, stage="l2o", error=9.0 - index
        )
    return history


def shown(history):
    return transforms.field_of(history.transform).array


def test_iteration_zero_is_the_identity_and_the_last_is_shown(history, full):
    assert len(history) == STEPS and history.index == STEPS - 1
    assert not history.field(0).array.any()
    np.testing.assert_array_equal(shown(history), full.array)


def test_the_output_transform_shows_the_selected_iteration(history, full):
    for index in (1, 0, 3, 2):
        history.index = index
        np.testing.assert_allclose(shown(history), full.scaled(index / 3).array, atol=1e-6)
        assert history.transform.GetTransformFromParent().GetInterpolationModeAsString() == "Linear"
    assert history.transform.GetName() == "registration"
    history.index = 99
    assert history.index == 3


def test_selecting_tells_the_views_once(history):
    told = []
    history.transform.AddObserver(
        slicer.vtkMRMLTransformableNode.TransformModifiedEvent, lambda *_: told.append(1)
    )
    history.index = 1
    assert len(told) == 1


def numbers(history):
    """What Slicer's player shows of each item."""
    return [history.sequence.GetNthIndexValue(index) for index in range(len(history))]


def test_iterations_are_counted_from_the_start_as_on_the_command_line(history):
    assert numbers(history) == ["-1", "0", "1", "2"]
    named = [title(index) for index in range(3)]
    assert named == ["before the registration", "iteration 0", "iteration 1"]


def test_a_scene_that_counts_from_before_goes_on_counting_so(history, full):
    for index in reversed(range(STEPS)):
        history.sequence.UpdateIndexValue(str(index - 1), str(index))
    history.remember()
    history.append(full)
    assert numbers(history) == ["0", "1", "2", "3", "4"]
    history.undo()
    assert numbers(history) == ["0", "1", "2", "3"]
    np.testing.assert_array_equal(shown(history), full.array)


def test_editing_the_output_transform_leaves_the_history(history, full):
    grid = history.transform.GetTransformFromParent().GetDisplacementGrid()
    grid.GetPointData().GetScalars().Fill(7.0)
    history.transform.GetTransformFromParent().Modified()
    history.transform.Inverse()
    history.transform.SetAttribute("L2ORegistration.dissimilarity", "nonsense")
    np.testing.assert_array_equal(history.field(3).array, full.array)
    assert history.metrics()[3]["dissimilarity"] == 0.5
    history.index = 0
    history.index = 3
    np.testing.assert_array_equal(shown(history), full.array)


def test_metrics_and_provenance(history):
    history.describe({"version": "1.2", "model": "lung"})
    assert history.metrics()[1] == {
        "dissimilarity": pytest.approx(5 / 6),
        "stage": "l2o",
        "error": 8.0,
    }
    history.index = 2
    assert history.transform.GetAttribute("L2ORegistration.run.model") == "lung"
    assert history.description == {"version": "1.2", "model": "lung"}


def test_a_kept_iteration_never_changes(history, full):
    image = history.transform.GetScene().AddNewNodeByClass("vtkMRMLScalarVolumeNode", "moving")
    transforms.set_role(history.transform, "moving", image)
    kept = history.keep(1)
    history.index = 0
    np.testing.assert_allclose(transforms.field_of(kept).array, full.scaled(1 / 3).array, atol=1e-6)
    assert transforms.roles(kept) == (None, image)
    assert kept.GetName() == "registration, iteration 0"
    assert History.of(kept) is None
    with pytest.raises(InputError, match="choose 0, before the registration, to 3"):
        history.keep(4)


def test_its_memory_is_one_float32_grid_an_iteration(history, full):
    stored = [
        history.sequence.GetNthDataNode(i).GetTransformFromParent().GetDisplacementGrid()
        for i in range(STEPS)
    ]
    expected = full.array.nbytes / 1024
    for image in stored:
        assert image.GetActualMemorySize() == pytest.approx(expected, rel=0.02)


def test_removed_it_leaves_the_transform(history, scene, full):
    transform = history.transform
    history.remove()
    assert scene.IsNodePresent(transform)
    assert History.of(transform) is None
    assert not scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode")
    np.testing.assert_array_equal(transforms.field_of(transform).array, full.array)
    history.remove()


def test_a_linear_transform_node_cannot_be_the_output(add_linear):
    with pytest.raises(InputError, match="create a new output transform"):
        History.create(add_linear(np.eye(4)))


@pytest.mark.parametrize("suffix", [".mrb", ".mrml"])
def test_saved_and_loaded_it_goes_on(history, scene, full, tmp_path, suffix):
    history.describe({"model": "lung"})
    history.result = 2
    history.index = 1
    session = Session(history)
    before = history.metrics()
    if suffix == ".mrb":
        path = str(tmp_path / "scene.mrb")
        assert scene.WriteToMRB(path)
        scene.Clear(1)
        assert scene.ReadFromMRB(path)
    else:
        path = str(tmp_path / "scene.mrml")
        for i in range(scene.GetNumberOfNodesByClass("vtkMRMLStorableNode")):
            node = scene.GetNthNodeByClass(i, "vtkMRMLStorableNode")
            if node.GetSaveWithScene() and node.AddDefaultStorageNode():
                storage = node.GetStorageNode()
                extension = storage.GetDefaultWriteFileExtension()
                storage.SetFileName(str(tmp_path / f"{node.GetName()}.{extension}"))
                assert storage.WriteData(node)
        scene.SetRootDirectory(str(tmp_path))
        scene.SetURL(path)
        assert scene.Commit(path)
        scene.Clear(1)
        scene.SetURL(path)
        assert scene.Import()
    del session

    transform = scene.GetFirstNodeByName("registration")
    loaded = Session.of(transform)
    again = loaded.history
    assert len(again) == STEPS and again.index == 1 and again.result == 2
    assert again.metrics() == before
    assert again.description["model"] == "lung"
    np.testing.assert_allclose(shown(again), full.scaled(1 / 3).array, atol=1e-5)
    loaded.select(3)
    np.testing.assert_allclose(shown(again), full.array, atol=1e-5)
    assert transform.GetTransformFromParent().GetInterpolationModeAsString() == "Linear"
    for index in range(STEPS):
        np.testing.assert_allclose(
            again.field(index).array, full.scaled(index / 3).array, atol=1e-5
        )
    assert loaded.curve.chart.GetNumberOfPlotSeriesNodes() == 4
    assert scene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 1


def test_provenance_leaves_the_metrics_alone(history):
    before = history.metrics()
    history.describe({"seconds": 99, "dissimilarity": "MIND", "model": "lung"})
    assert history.metrics() == before
    assert history.description == {"seconds": "99", "dissimilarity": "MIND", "model": "lung"}


class TestCurve:
    def values(self, table, column):
        array = table.GetTable().GetColumnByName(column)
        return [array.GetValue(i) for i in range(array.GetNumberOfValues())]

    def test_table_and_marker(self, history):
        session = Session(history)
        curve = session.curve
        assert self.values(curve.table, "Landmark error (mm)") == [9, 8, 7, 6]
        assert self.values(curve.table, "Dissimilarity (% of before)")[-1] == 50
        history.index = 2
        marker = history.browser.GetNodeReference("L2ORegistration.markTable")
        assert self.values(marker, "Iteration") == [1, 1]  # twice: lines have two points at least
        assert self.values(marker, "Landmark error (mm)") == [7, 7]
        session.close()
        history.index = 0
        assert self.values(marker, "Iteration") == [1, 1]
        assert self.values(curve.table, "Iteration") == [-1, 0, 1, 2]

    def test_a_single_iteration_is_no_line_yet(self, scene, full):
        history = History.create(scene.AddNewNodeByClass("vtkMRMLTransformNode", "other"))
        history.append(full.scaled(0), dissimilarity=1.0)
        curve = Curve(history)
        assert curve.chart.GetNumberOfPlotSeriesNodes() == 0
        history.append(full, dissimilarity=0.5)
        curve.update()
        assert curve.chart.GetNumberOfPlotSeriesNodes() == 2
        assert not curve.chart.GetLegendVisibility() and "blue" in curve.chart.GetTitle().lower()

    def test_it_grows_without_new_nodes(self, history, scene, full):
        curve = Curve(history)
        count = scene.GetNumberOfNodes()
        history.append(full, dissimilarity=0.4, error=5.0)
        curve.update()
        assert scene.GetNumberOfNodes() == count
        assert len(self.values(curve.table, "Iteration")) == STEPS + 1

    def test_a_chart_that_was_deleted_is_made_again_with_its_lines(self, history, scene):
        curve = Curve(history)
        lines = curve.chart.GetNumberOfPlotSeriesNodes()
        count = scene.GetNumberOfNodes()
        scene.RemoveNode(curve.chart)
        curve.update()
        assert curve.chart.GetNumberOfPlotSeriesNodes() == lines > 0
        assert scene.GetNumberOfNodes() == count

    def test_removed_nothing_is_left(self, history, scene):
        count = scene.GetNumberOfNodes()
        Curve(history).remove()
        assert scene.GetNumberOfNodes() == count
