"""Surface meshes (.obj, ASCII .ply and .vtk): their points replaced, all else kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..core.errors import InputError

SURFACES = (".obj", ".ply", ".vtk")


def read_surface(path: str | Path) -> tuple[np.ndarray, Callable[[np.ndarray, Path], None]]:
    """Points (N, 3), LPS mm, of a surface, and write(points, path), which keeps all else.

    Slicer writes surfaces in LPS; a file that says SPACE=RAS in its header is turned. Raises
    InputError for binary files and for files without points.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is a binary surface: save it as .obj.") from error
    sign = np.array([-1.0, -1.0, 1.0]) if any("SPACE=RAS" in s for s in lines[:8]) else np.ones(3)
    try:
        rows, tokens = _places(path.suffix.lower(), lines)
    except (IndexError, ValueError, StopIteration) as error:
        raise InputError(f"{path} is not a surface of its kind: save it as .obj.") from error
    if not len(tokens):
        raise InputError(f"{path} holds no points: there is no surface to move.")
    points = np.array([[float(x) for x in t[:3]] for t in tokens]) * sign

    def write(moved: np.ndarray, target: Path) -> None:
        kept = (" ".join(t[3:]) for t in tokens)
        mark = "v " if path.suffix.lower() == ".obj" else ""
        new = [
            f"{mark}{x:.6f} {y:.6f} {z:.6f} {rest}".rstrip()
            for (x, y, z), rest in zip(moved * sign, kept, strict=True)
        ]
        # Normals no longer fit a bent surface: programs compute them again.
        tail = _without_normals(lines[rows[-1] + 1 :], len(tokens))
        if len(rows) == len(new):
            middle = lines[rows[0] : rows[-1] + 1]  # of an .obj points and faces may take turns
            for row, line in zip(rows, new, strict=True):
                middle[row - rows[0]] = line
            middle = [line for line in middle if not line.startswith("vn ")]
        else:
            middle = new
        text = "\n".join([*lines[: rows[0]], *middle, *tail])
        target.write_text(text + "\n", encoding="ascii")

    return points, write


def _without_normals(lines: list[str], count: int) -> list[str]:
    """The lines after the points without normals: of an .obj, or a table of 3 x count in a .vtk."""
    kept, left = [], 0
    for line in lines:
        if left > 0:
            left -= len(line.split())
        elif line.startswith("NORMALS "):
            left = 3 * count
        elif not line.startswith("vn "):
            kept.append(line)
    return kept


def _places(suffix: str, lines: list[str]) -> tuple[Sequence[int], list[list[str]]]:
    """The rows in which the points stand, and the words of each point."""
    if suffix == ".obj":
        rows = [k for k, line in enumerate(lines) if line.startswith("v ")]
        return rows, [lines[k].split()[1:] for k in rows]
    if suffix == ".ply":
        if not any(line.startswith("format ascii") for line in lines[:5]):
            raise ValueError("binary")
        first = next(k for k, s in enumerate(lines) if s.startswith("element vertex"))
        if [line.split()[-1] for line in lines[first + 1 : first + 4]] != ["x", "y", "z"]:
            raise ValueError("normals or colours stand before the coordinates")
        count, start = int(lines[first].split()[2]), lines.index("end_header") + 1
        return range(start, start + count), [line.split() for line in lines[start : start + count]]
    start = next(k for k, line in enumerate(lines) if line.startswith("POINTS"))
    count, end, words = int(lines[start].split()[1]), start + 1, []
    while len(words) < 3 * count:  # several points may share a line
        words += lines[end].split()
        end += 1
    return range(start + 1, end), [words[3 * k : 3 * k + 3] for k in range(count)]
