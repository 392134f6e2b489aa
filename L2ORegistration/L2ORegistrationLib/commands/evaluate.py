"""`evaluate`: how good a transform is, from a file of any program that SimpleITK can read."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import SimpleITK as sitk
import typer

from ..core.errors import InputError
from ..core.files import read_mask, read_transform, read_volume
from ..core.geometry import DisplacementField, Grid, Volume
from ..core.measures import (
    check_landmarks_inside,
    jacobian_summary,
    landmarks_in_ras,
    opposite_direction,
    target_registration_error,
)
from ..outputs.direction import doubts_of_backward
from ..outputs.fields import SAMPLED_MM, as_field, own_field
from ..outputs.labels import read_regions
from ..outputs.quality import assess
from ..outputs.record import Scan, read_record
from ..reporting.tables import LandmarkPairs, landmark_measures
from .console import checked_file, measures_table, note, print_json, read_pairs, say, tell_written
from .console import output as out
from .options import FixedLandmarks, Json, MovingLandmarks

_MOST_SHOWN = 5  # landmarks
_WHOLE = 0.99  # of a mask that a field covers: the rest are voxels at its rim


def evaluate(
    transform: Annotated[
        Path, typer.Argument(metavar="TRANSFORM", help="Fixed point -> moving point; any format.")
    ],
    fixed_landmarks: FixedLandmarks = None,
    moving_landmarks: MovingLandmarks = None,
    fixed_mask: Annotated[
        Path | None, typer.Option(help="Where folding and SDlogJ count, such as the lungs.")
    ] = None,
    fixed: Annotated[
        Path | None, typer.Option(help="The fixed image: to check the landmarks; for .txt.")
    ] = None,
    moving: Annotated[
        Path | None, typer.Option(help="The moving image: likewise, and for the snapped error.")
    ] = None,
    fixed_structures: Annotated[
        Path | None, typer.Option(help="Label map of structures in fixed: distances and Dice.")
    ] = None,
    moving_structures: Annotated[
        Path | None, typer.Option(help="The same labels in moving.")
    ] = None,
    backward: Annotated[
        Path | None, typer.Option(help="A registration of exchanged scans, no inverse: consistency")
    ] = None,
    qa: Annotated[
        Path | None, typer.Option(help="Also write a QA page after TG-132: .html")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a transform: landmark errors before and after it, folding and SDlogJ."""
    qa = qa and checked_file(qa, (".html",), "a QA page")
    structures, alone = _structures(fixed_structures, moving_structures)
    motion = read_transform(transform)
    mask = read_mask(fixed_mask) if fixed_mask else None
    grids = [read_volume(path).grid if path else None for path in (fixed, moving)]
    other, doubts = None, []
    if backward:
        missing = f"{backward} has no grid of its own: name the moving image with --moving."
        other = as_field(read_transform(backward), grids[1], missing)
        doubts = doubts_of_backward(backward, transform)
    pairs = read_pairs(fixed_landmarks, moving_landmarks, *grids)

    rows = {
        "Initial": landmark_measures(sitk.Transform(3, sitk.sitkIdentity), pairs, grids[1]),
        "Transform": landmark_measures(motion, pairs, grids[1]),
    }
    beyond = "" if pairs is None else _beyond(motion, pairs[0], grids[0])
    field = _field(motion, mask, grids[0])
    quality = []
    if qa or structures or backward:
        if field is None:
            raise InputError("A transform without a grid needs --fixed or --fixed-mask.")
        masks = {"mask": mask} if mask else {}
        quality = assess(field, pairs, structures, masks, other)
    if field is not None:
        rows["Transform"]["jacobian"] = jacobian_summary(field, mask)
        points = mask.marked_points(most=20_000) if mask else np.empty((0, 3))
        covered = field.grid.contains(points).mean() if len(points) else 1.0
        if covered < _WHOLE:
            note(f"The field covers only {covered:.0%} of the mask: nothing is known of the rest.")
    if not any(rows.values()):
        raise InputError(
            "There is nothing to measure a transform without a grid at: "
            "give landmarks, --fixed-mask or --fixed."
        )
    warning = ""
    if pairs is not None:
        warning = opposite_direction(motion, *pairs) or landmarks_in_ras(motion, *pairs)
    record = read_record(transform)
    notes = record.warnings(transform.name) if record else []
    for role, path, grid in zip(("fixed", "moving"), (fixed, moving), grids):
        if record and grid:
            notes += record.misplaced(Scan.of(grid, path), role, f"--{role} {path.name}")
    notes = [*filter(None, (warning, beyond, alone)), *doubts, *notes]
    for sentence in notes:
        note(sentence)
    if qa:
        from ..reporting.quality import write_page

        files = {
            "transform": transform, "fixed": fixed, "moving": moving,
            "fixed landmarks": fixed_landmarks, "moving landmarks": moving_landmarks,
            "fixed mask": fixed_mask, "fixed structures": fixed_structures,
            "moving structures": moving_structures, "backward": backward,
        }  # fmt: skip
        known = {"measured": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"), **files}
        if record:
            known |= {"verdict": record.verdict, **record.provenance}
        worst = _worst(motion, pairs) if pairs else []
        write_page(quality, qa, f"QA of {transform.name}", known, notes, worst)
    if as_json:
        print_json(
            {
                "transform": str(transform),
                "landmarks": None if pairs is None else len(pairs[0]),
                "initial": rows["Initial"],
                "measures": rows["Transform"],
                "warning": warning,
                "notes": notes,
                "verdict": record.verdict if record else None,
                "quality": [{**vars(row), "verdict": row.verdict} for row in quality],
            }
        )
        return
    out.print(measures_table({name: row for name, row in rows.items() if row}))
    for row in quality:
        line = f"{row.verdict:>12}  {row.name}, {row.where}: {row.value} ({row.tolerance})"
        say(line)
    if qa:
        tell_written(qa)


def _structures(
    fixed: Path | None, moving: Path | None
) -> tuple[dict[str, tuple[Volume, Volume]], str]:
    """The masks of each label that both label maps have, by its name; a sentence names others."""
    if fixed is None and moving is None:
        return {}, ""
    if fixed is None or moving is None:
        raise InputError(
            "Structures come in pairs: give --fixed-structures and --moving-structures."
        )
    ours, theirs = read_regions(fixed), read_regions(moving)
    common = [name for name in ours if name in theirs]
    if not common:
        raise InputError(f"{fixed} and {moving} have no label in common.")
    alone = ", ".join(name for name in (*ours, *theirs) if name not in common)
    left_out = f"Structures in one scan only are left out: {alone}." if alone else ""
    return {name: (ours[name], theirs[name]) for name in common}, left_out


def _worst(motion: sitk.Transform, pairs: LandmarkPairs) -> list[tuple[str, float, float]]:
    """The landmarks that are furthest off: number and place, error before and after, mm."""
    before = np.linalg.norm(pairs[1] - pairs[0], axis=1)
    after = target_registration_error(motion, *pairs)
    return [
        ("{}, at ({:.1f}, {:.1f}, {:.1f}) LPS mm".format(k + 1, *pairs[0][k]), before[k], after[k])
        for k in np.argsort(-after)[:_MOST_SHOWN].tolist()
    ]


def _beyond(transform: sitk.Transform, points: np.ndarray, fixed: Grid | None) -> str:
    """A sentence where fixed points lie beside the nodes that a transform has of its own.

    Raises InputError where all of them do, and no fixed image tells that they lie in it.
    """
    field = own_field(transform)
    inside = None if field is None else field.grid.contains(points)
    if inside is None or inside.all():
        return ""
    if fixed is None and not inside.any():
        check_landmarks_inside(points, field.grid, "fixed")
    return (
        f"{(~inside).sum()} of {len(points)} fixed landmarks lie beside the transform's grid, "
        "where it moves nothing: the errors count them, too."
    )


def _field(
    transform: sitk.Transform, mask: Volume | None, grid: Grid | None
) -> DisplacementField | None:
    """The transform as a field: on its own nodes where it has some, else over the mask or image.

    None where there is neither of them.
    """
    over = grid
    if mask is not None:
        index = np.argwhere(mask.array)[:, ::-1]
        sides = np.stack([index.min(axis=0), index.max(axis=0)], axis=1)
        over = mask.grid.to_world(np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 3))
    if over is None:
        return own_field(transform)
    return as_field(transform, over, spacing=SAMPLED_MM)
