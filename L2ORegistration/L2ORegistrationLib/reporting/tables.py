"""What the steps of a registration achieved: landmark errors and the regularity of their fields."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from ..core.files import write_transform
from ..core.geometry import DisplacementField, Grid
from ..core.measures import jacobian_summary, summarise, target_registration_error
from ..core.paths import atomic

if TYPE_CHECKING:
    from ..engine.result import Result

LandmarkPairs = tuple[np.ndarray, np.ndarray]  # fixed and moving points (N, 3), LPS mm, row by row


def landmark_measures(
    transform: DisplacementField | sitk.Transform,
    pairs: LandmarkPairs | None,
    snap_to: Grid | None = None,
) -> dict[str, dict[str, float]]:
    """Errors at landmark pairs: "tre" and, given the moving grid to snap to, "snapped".

    The values are what `measures.summarise` returns; without pairs there are none.
    """
    if pairs is None:
        return {}
    found = {"tre": summarise(target_registration_error(transform, *pairs))}
    if snap_to is not None:
        errors = target_registration_error(transform, *pairs, snap_to=snap_to)
        found["snapped"] = summarise(errors)
    return found


def table(results: dict[str, Result], pairs: LandmarkPairs | None = None) -> dict[str, dict]:
    """The measures of "Initial", "Start" and of the best step of each result, and "seconds" to it.

    The results, by the name of their method, are of the same two images. A row's measures are
    "jacobian" (`measures.jacobian_summary`) and, with pairs, those of `landmark_measures`.
    """
    first = next(iter(results.values()))
    rows = {}
    for name, step in zip(("Initial", "Start"), first.steps, strict=False):
        rows[name] = _measures(first, step.field, pairs)
        if step.index:
            rows[name]["seconds"] = step.seconds
    for name, result in results.items():
        rows[name] = {**_measures(result, result.field, pairs), "seconds": result.seconds}
    return rows


def by_step(
    result: Result, pairs: LandmarkPairs | None = None, *, regularity: bool = True
) -> list[dict]:
    """One dictionary per step: index, stage, level, dissimilarity, seconds, best and its measures.

    regularity: all measures, as in `table`; False: only "tre", which is quick on large grids.
    """
    rows = []
    for number, step in enumerate(result.steps):
        row = {
            "index": step.index,
            "stage": step.stage,
            "level": step.level,
            "dissimilarity": float(step.dissimilarity),
            "seconds": float(step.seconds),
            "best": number == result.best,
        }
        if regularity:
            row |= _measures(result, step.field, pairs)
        else:
            row |= landmark_measures(step.field, pairs)
        rows.append(row)
    return rows


def write_history(result: Result, folder: Path, pairs: LandmarkPairs | None = None) -> list[Path]:
    """Write each step's field (step-000.nrrd, ...) and the measures (steps.json, steps.csv).

    Returns the paths in this order. Raises InputError when the folder cannot be written to.
    """
    rows = by_step(result, pairs)
    paths, earlier = [], []
    if (folder / "steps.json").exists():  # of an earlier run, which may have made more of them
        earlier = [path for path in folder.glob("step-*.nrrd") if path.stem[5:].isdigit()]
    for row, step in zip(rows, result.steps, strict=True):
        paths.append(folder / f"step-{step.index:03d}.nrrd")
        write_transform(step.field, paths[-1])
        row["file"] = paths[-1].name
    paths += [folder / "steps.json", folder / "steps.csv"]
    with atomic(paths[-2]) as temporary:
        temporary.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    write_csv([_flat(row) for row in rows], paths[-1])
    for path in set(earlier) - set(paths):
        with suppress(OSError):  # somebody has it open: the tables do not name it
            path.unlink()
    return paths


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows with the columns that any of them has, all or nothing."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _measures(result: Result, field: DisplacementField, pairs: LandmarkPairs | None) -> dict:
    jacobian = jacobian_summary(field, result.fixed_mask)
    return {"jacobian": jacobian, **landmark_measures(field, pairs, result.moving.grid)}


def _flat(row: dict) -> dict:
    """Nested values in columns such as "tre_mean"."""
    flat = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}_{name}": number for name, number in value.items()}
        else:
            flat[key] = value
    return flat


def plain(value: Any) -> Any:
    """The same for JSON: numbers that it cannot hold become null, unknown things their text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str | None) else str(value)
