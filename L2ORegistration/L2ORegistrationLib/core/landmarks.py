"""Landmarks: named points in the patient (LPS mm), from and to the usual files."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import InputError
from .geometry import Grid
from .paths import atomic, checked_suffix, existing

READABLE = (".csv", ".mrk.json", ".json", ".fcsv", ".txt")
WRITABLE = (".csv", ".mrk.json")

_LPS, _RAS = np.array([1.0, 1.0, 1.0]), np.array([-1.0, -1.0, 1.0])
_HEADERS = {("x", "y", "z"): _LPS, ("l", "p", "s"): _LPS, ("r", "a", "s"): _RAS}

# Slicer reads a markups file only if it names this schema.
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/"
    "Resources/Schema/markups-schema-v1.0.3.json#"
)


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points (N, 3), LPS mm, float64, and one label each ("1", "2", ... where none is given).

    labelled: whether labels were given, so that they tell which point is which.
    """

    points: np.ndarray
    labels: tuple[str, ...] = ()
    labelled: bool = field(init=False)

    def __post_init__(self):
        points = np.asarray(self.points, dtype=float)
        if points.ndim != 2 or points.shape[1] != 3 or not len(points):
            raise InputError(
                f"Landmarks need at least one point of three coordinates, got {points.shape}."
            )
        bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
        if bad.size:
            raise InputError(
                f"Landmark {bad[0] + 1} has a coordinate that is not a number: "
                "remove it, and its partner in the other image."
            )
        labels = tuple(self.labels) or ("",) * len(points)
        if len(labels) != len(points):
            raise InputError(f"There are {len(points)} landmarks but {len(labels)} labels.")
        labelled = any(labels)
        labels = tuple(str(label) or str(k) for k, label in enumerate(labels, start=1))
        self.__dict__.update(points=points, labels=labels, labelled=labelled)

    def __len__(self) -> int:
        return len(self.points)

    def chosen(self, rows: Sequence[int]) -> Landmarks:
        """The landmarks of these rows, in this order, under their labels."""
        return Landmarks(self.points[list(rows)], [self.labels[row] for row in rows])


def read_landmarks(path: str | Path, image: Grid | None = None) -> Landmarks:
    """Landmarks in LPS mm from a file.

    .csv       columns x, y, z (or l, p, s) in LPS mm, or r, a, s in RAS mm, and label, in any
               order; without a header x, y, z and optionally a label
    .mrk.json  Slicer markups; points that were not placed are skipped
    .fcsv      the older Slicer markups, likewise
    .txt       DIR-Lab: one x y z per line, voxel indices that start at 1, along the index axes of
               the image as it is stored; `image` is the grid that the indices belong to

    Raises InputError for anything else: other columns, no points, a coordinate that is no number.
    """
    path = existing(path)
    suffix = checked_suffix(path, READABLE, "landmarks")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as text: is it a landmark file, saved in UTF-8?"
        ) from error
    try:
        if suffix == ".csv":
            found = _from_csv(text)
        elif suffix == ".fcsv":
            found = _from_fcsv(text)
        elif suffix == ".txt":
            found = _from_dirlab(text, image)
        else:
            found = _from_markups(text)
        if not found:
            raise InputError("it holds no landmarks: place some and save it again.")
        return Landmarks(*zip(*found, strict=True))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write_landmarks(
    landmarks: Landmarks, path: str | Path, notes: Mapping[str, Sequence[float]] | None = None
) -> None:
    """Write .csv (x, y, z, label; LPS mm) or .mrk.json (Slicer markups in LPS), all or nothing.

    notes: numbers of each point, by a name with its unit: further columns, or points' descriptions;
    what is not known (NaN) stays empty.
    """
    suffix = checked_suffix(path, WRITABLE, "landmarks")
    rows = list(zip(landmarks.points.tolist(), landmarks.labels, strict=True))
    notes = {k: ["" if np.isnan(v) else f"{v:.2f}" for v in vs] for k, vs in (notes or {}).items()}
    noted = list(zip(*notes.values(), strict=True)) if notes else [()] * len(rows)
    with atomic(path) as temporary:
        if suffix == ".csv":
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(("x", "y", "z", "label", *notes))
                writer.writerows((*p, label, *note) for (p, label), note in zip(rows, noted))
        else:
            points = [
                {"id": str(k), "label": label, "position": point, "positionStatus": "defined"}
                for k, (point, label) in enumerate(rows, start=1)
            ]
            for point, note in zip(points, noted):
                if any(note):
                    said = (f"{name} {value}" for name, value in zip(notes, note) if value)
                    point["description"] = ", ".join(said)
            markups = {
                "type": "Fiducial",
                "coordinateSystem": "LPS",
                "coordinateUnits": "mm",
                "controlPoints": points,
            }
            document = {"@schema": _SCHEMA, "markups": [markups]}
            temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _number(text: object) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        raise InputError(f"'{text}' is not a coordinate: write numbers in mm.") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _rows(text: str) -> list[list[str]]:
    """The cells of each line that is neither empty nor a comment; , ; tab or spaces between."""
    lines = [line for line in text.split("\n") if line.strip() and line.lstrip()[0] != "#"]
    if not lines:
        return []
    delimiter = next((d for d in ",;\t" if d in lines[0]), None)
    if delimiter is None:
        return [line.split() for line in lines]
    return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]


def _from_csv(text: str) -> list[tuple[np.ndarray, str]]:
    rows = _rows(text)
    if not rows:
        return []
    header = [cell.lower() for cell in rows[0]]
    axes, sign = next(
        ((axes, sign) for axes, sign in _HEADERS.items() if set(axes) <= set(header)), (None, _LPS)
    )
    if axes is not None:
        columns = [header.index(axis) for axis in axes]
        label = next((header.index(name) for name in ("label", "name") if name in header), None)
        defined = header.index("defined") if "defined" in header else None
        rows = rows[1:]
    elif len(header) in (3, 4) and all(_is_number(cell) for cell in header[:3]):
        columns, label, defined = [0, 1, 2], 3 if len(header) == 4 else None, None
        if label and all(_is_number(row[-1]) for row in rows):
            raise InputError("it has four columns of numbers: name them in a header x,y,z,label.")
    else:
        raise InputError("its columns are not x, y and z: start it with the header x,y,z.")
    found = []
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise InputError(f"row {number} has {len(row)} columns instead of {len(header)}.")
        if defined is None or row[defined] not in ("0", ""):
            point = sign * [_number(row[column]) for column in columns]
            found.append((point, row[label] if label is not None else ""))
    return found


def _from_fcsv(text: str) -> list[tuple[np.ndarray, str]]:
    head = dict(
        (part.strip() for part in line.lstrip("# ").split("=", 1))
        for line in text.splitlines()
        if line.startswith("#") and "=" in line
    )
    sign = _frame(head.get("CoordinateSystem", "not told"))  # lists of Slicer 3, in RAS, don't
    found = []
    for row in _rows(text):
        if len(row) < 4:
            raise InputError("its rows are too short: save the markups from Slicer again.")
        # The 15th column tells whether the point was placed (2); older files do not have it.
        if len(row) < 15 or row[14] == "2":
            point = sign * [_number(cell) for cell in row[1:4]]
            found.append((point, row[11] if len(row) > 11 else ""))
    return found


def _from_markups(text: str) -> list[tuple[np.ndarray, str]]:
    try:
        found = []
        for markups in json.loads(text)["markups"]:
            sign = _frame(markups.get("coordinateSystem", "LPS"))
            units = markups.get("coordinateUnits") or "mm"  # one for all axes, or for each
            if {"mm"} != set([units] if isinstance(units, str) else units):
                raise InputError(f"its coordinates are in {units}: save it in mm.")
            for point in markups["controlPoints"]:
                if point.get("positionStatus", "defined") == "defined":
                    x, y, z = point["position"]
                    position = sign * [_number(x), _number(y), _number(z)]
                    found.append((position, point.get("label", "")))
        return found
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError("it is not a file of Slicer markups with positions x, y, z.") from error


def _from_dirlab(text: str, image: Grid | None) -> list[tuple[np.ndarray, str]]:
    if image is None:
        raise InputError(
            "it holds voxel indices of an image that is not given: name both images "
            "(evaluate: --fixed, --moving), or give points in LPS mm as .csv."
        )
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if not rows:
        return []
    if any(len(row) != 3 for row in rows):
        raise InputError("each line needs the three voxel indices x y z.")
    index = np.array([[_number(cell) for cell in row] for row in rows])
    wrong = np.flatnonzero(~((index >= 0.5) & (index <= np.asarray(image.size) + 0.5)).all(axis=1))
    if wrong.size:
        raise InputError(
            f"landmark {wrong[0] + 1} is not in the image, whose indices go from 1 1 1 to "
            f"{' '.join(map(str, image.size))}: is it the right image?"
        )
    return [(point, "") for point in image.to_world(index - 1)]


def _frame(name: str) -> np.ndarray:
    """The signs that bring this frame of Slicer to LPS; 0 and 1 are its older names."""
    signs = {"LPS": _LPS, "1": _LPS, "RAS": _RAS, "0": _RAS}
    if name not in signs:
        raise InputError(f"its coordinate system is {name}: save it in LPS or RAS.")
    return signs[name]
