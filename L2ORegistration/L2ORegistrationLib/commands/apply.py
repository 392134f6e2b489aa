"""`apply`: bring contours, labels, points, surfaces, dose or an image through a transform."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..core import landmarks as points_of
from ..core.errors import InputError
from ..core.files import (
    WRITABLE_IMAGES,
    Landmarks,
    grid_of,
    read_landmarks,
    read_transform,
    read_volume,
    write_landmarks,
    write_volume,
)
from ..core.geometry import DisplacementField, Grid, Volume
from ..core.jacobian import jacobian_determinant
from ..core.paths import atomic, checked_suffix, existing, suffix_of
from ..outputs.direction import doubts_of_backward
from ..outputs.record import Scan, read_record
from ..outputs.surfaces import SURFACES, read_surface
from .console import check_apart, checked_file, note, print_json, say, tell_written
from .options import Json

_OTHER_SURFACES = (".stl", ".vtp")
_LABELS = (".nrrd", ".nii.gz", ".nii", ".mha")


class To(str, Enum):
    """The scan that the thing is brought to; it lies in the other one."""

    fixed = "fixed"
    moving = "moving"


def apply(
    transform: Annotated[
        Path, typer.Argument(metavar="TRANSFORM", help="Fixed point -> moving point; any format.")
    ],
    thing: Annotated[
        Path,
        typer.Argument(
            metavar="THING",
            help="Labels, .seg.nrrd, RT structures, RT dose, points, surface or image.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")],
    reference: Annotated[
        Path | None,
        typer.Option(help="Image that it is brought onto (DICOM folder for DICOM output)."),
    ] = None,
    to: Annotated[To, typer.Option(help="The scan that THING is brought to.")] = To.fixed,
    source: Annotated[
        Path | None,
        typer.Option(help="Of RT structures: a DICOM folder whose frame of reference is theirs"),
    ] = None,
    backward: Annotated[
        Path | None,
        typer.Option(
            help="A second registration, of exchanged scans, no inverse: how sure points are."
        ),
    ] = None,
    confidence: Annotated[
        Path | None,
        typer.Option(help="What register --confidence wrote: how sure each point is, in mm."),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="THING is a label map: else it is blended as an image.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring THING, which lies in the moving scan, to the fixed scan (or back: --to moving)."""
    from ..outputs.fields import NO_GRID, as_field
    from ..outputs.inverse import invert

    thing = existing(thing)
    output = Path(output)
    kind = _kind(thing, labels)
    if kind != "structures" and source:
        raise InputError(
            f"--source is compared with RT structures only, but {thing.name} is {_NAMES[kind]}: "
            "leave it out."
        )
    if labels and kind != "labels":
        raise InputError(
            f"--labels is for label maps, but {thing.name} is {_NAMES[kind]}: leave it out."
        )
    if kind != "points" and (confidence or backward):
        raise InputError(
            f"--confidence and --backward say how sure points are, but {thing.name} is "
            f"{_NAMES[kind]}: leave them out."
        )
    suffixes = {
        "points": points_of.WRITABLE,
        "surface": SURFACES,
        "structures": (".dcm",),
        "dose": (".dcm", *WRITABLE_IMAGES),
        "labels": (".seg.nrrd", *_LABELS) if suffix_of(thing) == ".seg.nrrd" else _LABELS,
        "image": WRITABLE_IMAGES,
    }
    output = checked_file(output, suffixes[kind], _NAMES[kind])
    check_apart([output], [transform, thing, reference, backward, confidence])
    if kind in ("points", "surface"):
        target = read_volume(reference).grid if reference else None
    elif reference is None:
        raise InputError(f"Give --reference: the {to.value} image that {thing.name} is brought to.")
    else:
        target = read_volume(reference).grid
    # Where points of fixed lie, the moving image's grid does not tell.
    over, missing = target, NO_GRID
    if to is To.moving:
        over = None
        missing = (
            f"{transform} has no grid of its own. Write its inverse (l2o-registration invert "
            f"{transform} --reference FIXED -o inverse.h5), and apply that without --to."
        )
    field = as_field(read_transform(transform), over, missing)
    if kind in ("points", "surface"):
        missing = f"{backward} has no grid of its own: only a displacement field can be used here."
        other = as_field(read_transform(backward), missing=missing) if backward else None
        doubts = doubts_of_backward(backward, transform) if backward else []
        told = read_volume(confidence) if confidence else None
        if told is not None and told.array.min() < 0:
            raise InputError(
                f"{confidence} has negative values, as an image has: give what "
                "register --confidence wrote."
            )
        answer = _moved_points(thing, output, field, to, target, kind, other, told)
        answer["warnings"] += doubts
    else:
        motion = field if to is To.fixed else invert(field, moving=target).field
        if kind == "structures":
            answer = _moved_structures(thing, output, motion, target, reference, source)
        else:
            answer = _moved(kind, thing, output, motion, target, reference)
        answer["warnings"] = [*answer.get("warnings", []), *_doubts(field, motion, target)]
    warnings = [
        *_of_record(transform, thing, kind, reference, target, to),
        *answer.pop("warnings", []),
    ]
    for warning in warnings:
        note(warning)
    if as_json:
        print_json({"output": str(output), "kind": kind, "warnings": warnings, **answer})
        return
    say(f"{_NAMES[kind]}: {answer.pop('how')}")
    for key, value in answer.items():
        many = isinstance(value, dict) and len(value) > _MOST_SAID
        said = f"{len(value)} of them, told by --json" if many else _said(value)
        say(f"{key.replace('_', ' ')}: {said}")
    tell_written(output)


_MOST_SAID = 12  # points or structures whose numbers are told one by one
_FEW_VALUES = 64  # of a CT there are thousands

_NAMES = {
    "points": "points",
    "surface": "a surface",
    "structures": "RT structures",
    "dose": "RT dose",
    "labels": "labels",
    "image": "an image",
}


def _of_record(
    transform: Path, thing: Path, kind: str, reference: Path | None, target: Grid | None, to: To
) -> list[str]:
    """What the registration that made the transform says against this use, a sentence each."""
    record = read_record(transform)
    if record is None:
        return []
    said = record.warnings(transform.name)
    if target is not None:
        said += record.misplaced(Scan.of(target, reference), to.value, reference.name)
    here = To.moving if to is To.fixed else To.fixed
    if kind == "structures":
        from ..outputs.contours import frame_of_reference
        from ..outputs.requires import read_dicom

        lies = Scan(None, frame=frame_of_reference(read_dicom(thing)))
    else:
        lies = Scan.of(grid_of(thing) if kind in ("labels", "image") else None, thing)
    return said + record.misplaced(lies, here.value, thing.name)


def _said(value: object) -> str:
    """A value of the answer in words: dictionaries as a list, numbers to four digits."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(one)}" for name, one in value.items())
    if isinstance(value, (tuple, list)):
        return " -> ".join(map(_said, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _kind(thing: Path, labels: bool) -> str:
    suffix = suffix_of(thing)
    if suffix in points_of.READABLE:
        return "points"
    if suffix in SURFACES:
        return "surface"
    if suffix in _OTHER_SURFACES:
        known = ", ".join(SURFACES)
        raise InputError(f"{thing} is a surface that is not read: save it as one of {known}.")
    if labels or suffix == ".seg.nrrd":
        return "labels"
    if thing.is_file() and suffix in (".dcm", ""):
        from ..outputs.requires import read_dicom

        sop = read_dicom(thing, stop_before_pixels=True).get("SOPClassUID", "")
        from ..outputs.contours import STRUCTURES_SOP
        from ..outputs.images import DOSE_SOP

        kinds = {STRUCTURES_SOP: "structures", DOSE_SOP: "dose"}
        if sop not in kinds:
            raise InputError(f"{thing} is neither an RT structure set nor an RT dose.")
        return kinds[sop]
    return "image"


def _moved_points(
    thing: Path,
    output: Path,
    field: DisplacementField,
    to: To,
    target: Grid | None,
    kind: str,
    backward: DisplacementField | None,
    told: Volume | None,
) -> dict:
    from ..outputs import points

    if kind == "surface":
        given, write = read_surface(thing)
    else:
        read = read_landmarks(thing)
        given = read.points

    moved = points.to_fixed(given, field) if to is To.fixed else points.to_moving(given, field)
    warnings = moved.warnings()
    if target is not None and (outside := int((~target.contains(moved.points)).sum())):
        warnings.append(f"{outside} points end outside the {to.value} image.")
    if kind == "surface":
        with atomic(output) as temporary:
            write(moved.points, temporary)
    how = {
        To.fixed: "moving to fixed, by the inverse, solved at every point",
        To.moving: "fixed to moving, by the transform itself",
    }
    answer = {"how": how[to], "count": len(given), "warnings": warnings}
    if kind == "points":
        names = read.labels
        if len(set(names)) < len(names):
            names = [f"{k} {label}" for k, label in enumerate(names, start=1)]
        answer["found"] = {
            name: "({:.1f}, {:.1f}, {:.1f}) LPS mm".format(*point)
            for name, point in zip(names, moved.points, strict=True)
        }
        ends = (moved.points, given) if to is To.fixed else (given, moved.points)
        sure = points.uncertainty(*ends, field, told, backward)
        if told is not None and np.isnan(points.told_at(told, ends[0])).all():
            warnings.append("No point lies in the lungs of the confidence map: is it of this pair?")
        unit = "confidence_mm" if told is not None else "disagreement_mm"
        if sure is not None:
            answer[unit] = {n: round(float(mm), 2) for n, mm in zip(names, sure, strict=True)}
        notes = {} if sure is None else {unit: sure}
        write_landmarks(Landmarks(moved.points, read.labels), output, notes)
    return answer


def _centre(structure) -> np.ndarray:
    """The middle of the box round a structure's contours, LPS mm."""
    points = np.concatenate(structure.contours)
    return (points.min(axis=0) + points.max(axis=0)) / 2


def _doubts(field: DisplacementField, motion: DisplacementField, target: Grid) -> list[str]:
    """What makes a transform doubtful for the whole of the target, a sentence each."""
    said = []
    folded = float((jacobian_determinant(field).array <= 0).mean())
    if folded:
        said.append(f"The transform folds in {100 * folded:.2g} % of its grid: do not trust these.")
    if not motion.grid.contains(target.corners()).all():
        said.append("The reference reaches beyond the field, whose edge value continues there.")
    return said


def _moved(
    kind: str,
    thing: Path,
    output: Path,
    motion: DisplacementField,
    target: Grid,
    reference: Path,
) -> dict:
    if kind == "labels":
        from ..outputs.labels import warp_label_file

        return {
            "how": "each label interpolated by itself",
            "ml before and after": warp_label_file(thing, motion, target, output),
        }
    from ..outputs import images

    if kind == "dose":
        found = images.warp_dose(thing, motion, reference, target, output)
        how = "refined, then interpolated; the dose in Gy is not multiplied by the Jacobian"
        return {"how": how, **found}
    image = read_volume(thing)
    checked_suffix(output, WRITABLE_IMAGES, "an image")
    warped = images.warp_image(image, motion, target, float(image.array.min()))
    write_volume(warped, output)
    found = {"how": "linear interpolation, its lowest value beyond it"}
    if len(np.unique(image.array)) <= _FEW_VALUES:
        sentence = f"{thing.name} has few different values. If it is a label map, give --labels."
        found["warnings"] = [f"{sentence} Without it, labels were blended into others."]
    return found


def _moved_structures(
    thing: Path,
    output: Path,
    motion: DisplacementField,
    target: Grid,
    reference: Path,
    source: Path | None,
) -> dict:
    from ..outputs import contours, dicom

    structures, data = contours.read_structures(thing)
    if source is not None:
        frame = str(dicom.slices_of(source)[0].FrameOfReferenceUID)
        if frame != contours.frame_of_reference(data):
            raise InputError(
                f"{thing} belongs to another frame of reference than {source}: "
                "give the structures that were drawn on this scan."
            )
    dicom.slices_of(reference)
    moved, warnings = [], []
    for one in structures:
        if not any(len(c) > 2 for c in one.contours):
            warnings.append(f"{one.name} is empty and stays empty.")
            moved.append(replace(one, contours=[]))
            continue
        moved.append(contours.warp_structure(one, motion, target))
        if not moved[-1].contours:
            warnings.append(f"{one.name} lies outside the reference and stays empty.")
        elif missing := contours.left_out(one, moved[-1], target):
            warnings.append(
                f"{one.name} has no contour on {missing} of the slices between its others, where "
                "its shape changes much from slice to slice: draw it there."
            )
    if not any(one.contours for one in moved):
        raise InputError(
            "None of the structures reaches the reference after the transform: "
            "do transform, structures and reference belong together?"
        )
    made = dicom.structures_dataset(moved, data, reference)
    with atomic(output) as temporary:
        made.save_as(temporary, enforce_file_format=True)
    return {
        "how": "resliced on the reference's slices",
        "contours": {one.name: len(one.contours) for one in moved},
        "ml before and after": {
            one.name: (one.shape().millilitres(), there.shape().millilitres())
            for one, there in zip(structures, moved, strict=True)
            if there.contours
        },
        "centre_moved_mm": {
            one.name: float(np.linalg.norm(_centre(there) - _centre(one)))
            for one, there in zip(structures, moved, strict=True)
            if there.contours
        },
        "warnings": warnings,
    }
