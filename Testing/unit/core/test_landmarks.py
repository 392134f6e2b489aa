"""Landmark files of every usual format give the same points in LPS mm, or a clear refusal."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import Grid
from L2ORegistrationLib.core.landmarks import Landmarks, read_landmarks, write_landmarks

POINTS = [[1.5, -2.0, 3.0], [-40.25, 50.0, -60.0]]


@pytest.fixture
def given_file(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def assert_both(landmarks, *labels):
    """These are the two POINTS, under these labels."""
    np.testing.assert_array_equal(landmarks.points, POINTS)
    assert landmarks.labels == labels


def markups(points, **attributes):
    return json.dumps({"markups": [{"type": "Fiducial", "controlPoints": points, **attributes}]})


@given(
    st.lists(
        st.tuples(
            *[st.floats(-1e4, 1e4)] * 3,
            st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(deadline=None, max_examples=40)
def test_written_landmarks_are_read_back_exactly(tmp_path_factory, rows):
    landmarks = Landmarks([row[:3] for row in rows], [row[3] for row in rows])
    folder = tmp_path_factory.mktemp("landmarks")
    for name in ("points.csv", "points.mrk.json"):
        write_landmarks(landmarks, folder / name)
        again = read_landmarks(folder / name)
        np.testing.assert_array_equal(again.points, landmarks.points)
        assert again.labels == landmarks.labels


@pytest.mark.parametrize(
    "text, labels",
    [
        ("x,y,z\n1.5,-2,3\n-40.25,50,-60\n", ("1", "2")),
        ("1.5,-2,3\n-40.25,50,-60", ("1", "2")),
        ("\ufeffX, Y, Z\r\n1.5, -2, 3\r\n\r\n-40.25, 50, -60\r\n", ("1", "2")),
        ("x;y;z\n1.5;-2;3\n-40.25;50;-60\n", ("1", "2")),
        ("1.5 -2 3\n-40.25 50 -60\n", ("1", "2")),
        ("# from the atlas\nz\ty\tx\n3\t-2\t1.5\n-60\t50\t-40.25\n", ("1", "2")),
        ("label,r,a,s,defined\n1,-1.5,2,3,1\nlost,0,0,0,0\n2,40.25,-50,-60,1\n", ("1", "2")),
        ("x,y,z,label\n1.5,-2,3,apex\n-40.25,50,-60,carina", ("apex", "carina")),
        ("label,l,p,s\napex,1.5,-2,3\ncarina,-40.25,50,-60", ("apex", "carina")),
        ('1.5,-2,3,apex\n-40.25,50,-60,"carina"', ("apex", "carina")),
    ],
)
def test_csv_with_and_without_header_and_labels(given_file, text, labels):
    assert_both(read_landmarks(given_file("points.csv", text)), *labels)


@pytest.mark.parametrize("system, sign", [("LPS", 1), ("RAS", -1), (None, 1)])
def test_markups_in_either_frame_without_the_points_that_were_not_placed(given_file, system, sign):
    points = [
        {"label": "a", "position": [sign * 1.5, sign * -2.0, 3.0], "positionStatus": "defined"},
        {"label": "b", "position": "", "positionStatus": "undefined"},
        {"label": "c", "position": [9, 9, 9], "positionStatus": "preview"},
        {"label": "d", "position": [sign * -40.25, sign * 50.0, -60.0]},
    ]
    units = ["mm"] * 3 if system == "RAS" else "mm"
    given = {"coordinateSystem": system, "coordinateUnits": units} if system else {}
    text = markups(points, **given)
    assert_both(read_landmarks(given_file("points.mrk.json", text)), "a", "d")


@pytest.mark.parametrize("system, sign", [("LPS", 1), ("1", 1), ("RAS", -1), ("0", -1)])
def test_fcsv_in_either_frame(given_file, system, sign):
    text = (
        "# Markups fiducial file version = 5.8\n"
        f"# CoordinateSystem = {system}\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        f'1,{sign * 1.5},{sign * -2},3,0,0,0,1,1,1,0,"upper, left",,,2,0\n'
        "2,7,7,7,0,0,0,1,1,1,0,lost,,,0,0\n"
        f"3,{sign * -40.25},{sign * 50},-60,0,0,0,1,1,1,0,F-3,,\n"
    )
    assert_both(read_landmarks(given_file("points.fcsv", text)), "upper, left", "F-3")


def test_dirlab_indices_start_at_one_on_the_axes_of_the_image(given_file):
    path = given_file("case1_T00.txt", " 1\t1\t1 \n3   2 4\n")
    direction = (0, -1, 0, 1, 0, 0, 0, 0, 1)
    grid = Grid((3, 2, 4), (1.0, 2.0, 2.5), (10, 20, 30), direction)
    landmarks = read_landmarks(path, grid)
    np.testing.assert_allclose(landmarks.points, [[10, 20, 30], [8, 22, 37.5]])
    with pytest.raises(InputError, match="--fixed, --moving.* LPS mm as .csv"):
        read_landmarks(path)
    with pytest.raises(InputError, match="landmark 2 is not in the image"):
        read_landmarks(path, Grid((3, 2, 3)))
    with pytest.raises(InputError, match="1 1 1"):
        read_landmarks(given_file("zero.txt", "0 1 1\n"), grid)


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.csv", "", "no landmarks"),
        ("a.csv", "x,y,z\n", "no landmarks"),
        ("a.csv", "i,j,k\n1,2,3\n", "header x,y,z"),
        ("a.csv", "1,2\n3,4\n", "header x,y,z"),
        ("a.csv", "1,2,3,4,5,6\n", "header x,y,z"),
        ("a.csv", "1,10,20,30\n2,10,20,30\n", "header x,y,z,label"),
        ("a.csv", "x,y,z\n1,2,3\n1,2\n", "row 2 has 2 columns"),
        ("a.csv", "x,y,z\n1,2,nan\n", "Landmark 1 .* not a number"),
        ("a.csv", "x,y,z\n1,2,left\n", "'left' is not a coordinate"),
        ("a.mrk.json", "{", "not a file of Slicer markups"),
        ("a.mrk.json", "[]", "not a file of Slicer markups"),
        ("a.json", '{"markups": [1]}', "not a file of Slicer markups"),
        ("a.mrk.json", markups([]), "no landmarks"),
        ("a.mrk.json", markups([{"position": [1, 2]}]), "not a file of Slicer markups"),
        ("a.mrk.json", markups([{"position": [1, 2, None]}]), "not a coordinate"),
        ("a.mrk.json", markups([], coordinateSystem="IJK"), "LPS or RAS"),
        ("a.fcsv", "# CoordinateSystem = 2\n1,1,2,3\n", "LPS or RAS"),
        ("a.fcsv", "# CoordinateSystem = 0\n1,2\n", "too short"),
        ("a.fcsv", "# Fiducial List file\n# label,x,y,z,sel,vis\nA,1,2,3,1,1\n", "LPS or RAS"),
        ("a.mrk.json", markups([{"position": [1, 2, 3]}], coordinateUnits="cm"), "in cm.*mm"),
        ("a.txt", "1 2 3 4\n", "three voxel indices"),
        ("a.txt", "nan 1 1\n", "landmark 1 is not in the image"),
        ("a.xlsx", "", "use one of .csv"),
    ],
)
def test_unusable_files_are_refused_with_a_sentence(given_file, name, text, said):
    with pytest.raises(InputError, match=said) as refusal:
        read_landmarks(given_file(name, text), Grid((5, 5, 5)))
    assert name in str(refusal.value)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_landmarks(tmp_path / "missing.csv")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as text"):
        read_landmarks(tmp_path / "picture.csv")


def test_points_and_labels_must_fit_together():
    with pytest.raises(InputError, match="1 landmarks but 2 labels"):
        Landmarks([[0, 0, 0]], ("a", "b"))
    with pytest.raises(InputError, match="three coordinates"):
        Landmarks([[0, 0]])
    assert Landmarks([[0, 0, 0], [1, 1, 1]], ("", "b")).labels == ("1", "b")


def test_writing_needs_a_supported_suffix_and_a_folder(tmp_path):
    landmarks = Landmarks(POINTS)
    with pytest.raises(InputError, match=r"\.csv, \.mrk\.json"):
        write_landmarks(landmarks, tmp_path / "points.fcsv")
    with pytest.raises(InputError, match="does not exist"):
        write_landmarks(landmarks, tmp_path / "nowhere" / "points.csv")


@pytest.mark.parametrize("system, sign", [("LPS", 1), ("RAS", -1)])
def test_slicer_reads_and_writes_the_same_markups(tmp_path, system, sign):
    slicer = pytest.importorskip("slicer")
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerMarkupsLogic()
    logic.SetMRMLScene(scene)
    ours, theirs = tmp_path / "ours.mrk.json", tmp_path / "theirs.mrk.json"
    write_landmarks(Landmarks(POINTS, ("a", "b")), ours)

    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    storage = scene.AddNewNodeByClass("vtkMRMLMarkupsJsonStorageNode")
    storage.SetFileName(str(ours))
    assert storage.ReadData(node)
    position = np.array(node.GetNthControlPointPosition(1)) * (-1, -1, 1)
    np.testing.assert_allclose(position, POINTS[1])
    assert node.GetNthControlPointLabel(1) == "b"

    node.AddControlPoint((0, 0, 0), "lost")
    node.UnsetNthControlPointPosition(2)
    storage.SetFileName(str(theirs))
    storage.SetCoordinateSystem(getattr(slicer.vtkMRMLStorageNode, f"CoordinateSystem{system}"))
    assert storage.WriteData(node)
    assert json.loads(theirs.read_text("utf-8"))["markups"][0]["coordinateSystem"] == system
    again = read_landmarks(theirs)
    np.testing.assert_allclose(again.points, POINTS, atol=1e-6)
    assert again.labels == ("a", "b")
