"""Surfaces in text files: points replaced, faces kept, normals gone."""

import numpy as np
import pytest
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.outputs import surfaces


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.obj", "v 1 2 3\nv 4 5 6\nv 7 8 9\nf 1 2 3\n"),
        (
            "a.ply",
            "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
            "property float z\nend_header\n"
            "1 2 3\n4 5 6\n7 8 9\n3 0 1 2\n",
        ),
        (
            "a.vtk",
            "# vtk DataFile Version 3.0\nSPACE=LPS\nASCII\nDATASET POLYDATA\n"
            "POINTS 3 float\n1 2 3 4 5 6\n7 8 9\nPOLYGONS 1 4\n3 0 1 2\n",
        ),
    ],
)
def test_surfaces_keep_their_faces(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    found, write = surfaces.read_surface(tmp_path / name)
    assert np.array_equal(found, np.arange(1, 10).reshape(3, 3))
    write(found + 1, tmp_path / ("b" + name))
    again, _ = surfaces.read_surface(tmp_path / ("b" + name))
    assert np.array_equal(again, found + 1)
    assert (tmp_path / ("b" + name)).read_text("utf-8").splitlines()[-1] == text.splitlines()[-1]


def test_an_obj_of_several_objects_keeps_each_point_in_its_own(tmp_path):
    text = "o a\nv 1 2 3\nvn 0 0 1\nv 4 5 6\nv 7 8 9\nf 1 2 3\no b\nv 1 1 1\nf 1 2 4\n"
    (tmp_path / "a.obj").write_text(text)
    found, write = surfaces.read_surface(tmp_path / "a.obj")
    assert len(found) == 4
    write(found + 1, tmp_path / "b.obj")
    words = [line.split()[0] for line in (tmp_path / "b.obj").read_text("utf-8").splitlines()]
    assert words == ["o", "v", "v", "v", "f", "o", "v", "f"]
    assert np.array_equal(surfaces.read_surface(tmp_path / "b.obj")[0], found + 1)


def test_normals_of_a_vtk_surface_do_not_stay_behind(tmp_path):
    head = "# vtk DataFile Version 3.0\nSPACE=LPS\nASCII\nDATASET POLYDATA\n"
    body = "POINTS 2 float\n1 2 3 4 5 6\nLINES 1 3\n2 0 1\nPOINT_DATA 2\n"
    arrays = "NORMALS n float\n0 0 1 0\n0 1\nSCALARS s float\nLOOKUP_TABLE default\n5 6\n"
    (tmp_path / "a.vtk").write_text(head + body + arrays)
    points, write = surfaces.read_surface(tmp_path / "a.vtk")
    write(points, tmp_path / "b.vtk")
    left = (tmp_path / "b.vtk").read_text("utf-8")
    assert "NORMALS" not in left and left.endswith(
        "2\nSCALARS s float\nLOOKUP_TABLE default\n5 6\n"
    )


def test_a_ply_whose_normals_stand_before_its_points_is_refused(tmp_path):
    names = "".join(f"property float {name}\n" for name in ("nx", "ny", "nz", "x", "y", "z"))
    head = f"ply\nformat ascii 1.0\nelement vertex 1\n{names}end_header\n"
    (tmp_path / "a.ply").write_text(head + "0 0 1 5 6 7\n")
    with pytest.raises(InputError, match="not a surface of its kind: save it as .obj"):
        surfaces.read_surface(tmp_path / "a.ply")
