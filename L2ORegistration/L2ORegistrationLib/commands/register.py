"""`register`: two images in, one transform out."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core import mixed_up
from ..core.errors import InputError
from ..core.files import (
    WRITABLE_IMAGES,
    WRITABLE_TRANSFORMS,
    read_mask,
    read_transform,
    read_volume,
)
from ..core.geometry import Grid, Volume
from ..core.measures import landmarks_in_ras, opposite_direction
from ..engine.catalogue import DEFAULT, METHODS, STARTS
from ..outputs.direction import doubts_of_start
from ..outputs.record import Scan, beside
from ..outputs.registry import OUTPUTS, named
from ..reporting import certainty, tables
from ..reporting.case import CaseFiles
from ..reporting.tables import LandmarkPairs
from .console import (
    check_apart,
    checked_file,
    checked_folder,
    follow,
    measures_table,
    messages,
    note,
    print_json,
    read_pairs,
    say,
    tell_certainty,
    tell_written,
)
from .console import output as out
from .following import Following, Written
from .options import (
    Device,
    FixedLandmarks,
    Iterations,
    Json,
    MovingLandmarks,
    Quiet,
    Spacing,
    Threads,
)

if TYPE_CHECKING:
    from ..engine.result import Result


Method = Enum("Method", {name: name for name in METHODS}, type=str)
Start = Enum("Start", {name: name for name in STARTS}, type=str)
_PULLED_MM = 3.0  # between the nodes of a field that landmarks pull: it has 6 mm in the end
_Mask = Annotated[Path | None, typer.Option(help="Lungs; automatic if left out.")]


def register(
    fixed: Annotated[
        Path, typer.Argument(metavar="FIXED", help="Image that stays: a file or a DICOM folder.")
    ],
    moving: Annotated[
        Path, typer.Argument(metavar="MOVING", help="Image that is to be brought onto it.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Transform: .h5 .tfm .nrrd .mha .nii.gz")
    ],
    fixed_mask: _Mask = None,
    moving_mask: _Mask = None,
    mask_labels: Annotated[
        str | None, typer.Option(help="The lungs' labels in masks that hold others, such as 1,2.")
    ] = None,
    initial_transform: Annotated[
        Path | None, typer.Option(help="Start from this transform (fixed to moving points).")
    ] = None,
    fixed_landmarks: FixedLandmarks = None,
    moving_landmarks: MovingLandmarks = None,
    pull: Annotated[
        bool,
        typer.Option(
            "--pull", help="Correct --initial-transform by the landmarks; go on with gauss-newton."
        ),
    ] = False,
    start: Annotated[
        Start | None, typer.Option(help="Before the first iteration; the method's own if left out.")
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(help=f"The optimiser; {DEFAULT}, or that of --model, if left out."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Weights by name (see `models`) or a .pt file.")
    ] = None,
    start_model: Annotated[
        str | None, typer.Option(help="Weights of --start voxelmorph++: a name or a .pt file.")
    ] = None,
    iterations: Iterations = None,
    spacing: Spacing = None,
    device: Device = "auto",
    threads: Threads = None,
    warped: Annotated[
        Path | None, typer.Option(help="Also write the moving image in the fixed geometry.")
    ] = None,
    confidence: Annotated[
        Path | None,
        typer.Option(
            help="Also write how far off each place of the lungs may be, mm (0: outside them; 16: "
            "nothing is known)."
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help=f"Also write an image: {', '.join(OUTPUTS)}."),
    ] = None,
    history: Annotated[
        Path | None, typer.Option(help="Also write every step's field and measures here.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write an HTML report here.")] = None,
    inverse: Annotated[
        Path | None, typer.Option(help="Also write the inverse transform, moving to fixed.")
    ] = None,
    dicom: Annotated[
        Path | None, typer.Option(help="Also write a DICOM registration; needs DICOM folders.")
    ] = None,
    ventilation: Annotated[
        Path | None, typer.Option(help="Also write maps of the lungs' volume change here.")
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(help="Labels in fixed, such as lobes, each a line of the volume change."),
    ] = None,
    quiet: Quiet = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what was used.")] = False,
    as_json: Json = False,
) -> None:
    """Register MOVING to FIXED and write the transform: fixed point -> where to sample in moving.

    Ends with a verdict: good, check or failed, and its reasons. Where it is failed, the transform
    is still written and the exit code is 3. Ctrl-C stops early, keeps the best field so far and
    exits with code 130.
    """
    if quiet and verbose:
        raise InputError("--quiet and --verbose exclude each other: leave one out.")
    images_wanted = [*([f"confidence={confidence}"] if confidence else []), *(image or ())]
    files = _checked_files(output, warped, images_wanted, history, report)
    following = Following(fixed, moving, inverse, dicom, ventilation, regions, bool(report))
    landmarks = bool(fixed_landmarks and moving_landmarks)
    _check_start(start, initial_transform is not None, landmarks, pull)
    if pull and method not in (None, Method("gauss-newton")):
        raise InputError("--pull holds points by gauss-newton: leave --method out.")
    if mask_labels and not (fixed_mask or moving_mask):
        raise InputError("--mask-labels needs --fixed-mask or --moving-mask.")
    scans = fixed, moving, fixed_mask, moving_mask, fixed_landmarks, moving_landmarks
    transforms = [path for path in (files.transform, inverse) if path]
    images_written = files.warped, *(path for _, path in files.images)
    written_files = *transforms, *map(beside, transforms), *images_written, dicom
    check_apart(written_files, (*scans, initial_transform, regions))
    for folder in (files.report, files.history, ventilation):  # one folder may be of all three
        check_apart((*written_files, folder), ())

    images = read_volume(fixed), read_volume(moving)
    pairs = read_pairs(fixed_landmarks, moving_landmarks, *(one.grid for one in images))
    masks = _mask(fixed_mask, mask_labels), _mask(moving_mask, mask_labels)
    drawn = (read_mask(mask) if isinstance(mask, Path) else mask for mask in masks)
    doubts = [*mixed_up.doubts(*images, *drawn), *following.check_regions(*images, masks[0])]
    if initial_transform:
        ends = (Scan.of(image.grid, path) for image, path in zip(images, (fixed, moving)))
        doubts += doubts_of_start(initial_transform, *ends)
    options = {
        "fixed_mask": masks[0],
        "moving_mask": masks[1],
        "method": method and method.value,
        "model": model,
        "start_model": start_model,
        "iterations": iterations,
        "device": device,
        "threads": threads,
        **({"spacing": spacing} if spacing is not None else {}),
        **_start(start, initial_transform, pairs, images[0].grid, pull),
    }
    for doubt in doubts:
        note(doubt)  # now, as there may be no end
    from ..engine.registration import Registration  # imports torch, which takes seconds

    if not quiet:
        messages.print("Finding the lungs and where to start ...")
    result = follow(Registration(*images, **options), pairs, shown=not quiet)
    if not quiet and (report or ventilation or inverse or history):
        messages.print("Writing what was asked for ...")
    name = METHODS[result.provenance["method"]].title
    late = _warnings(result, start, pairs, pull)
    warnings = *doubts, *late
    written = files.write(
        {name: result},
        pairs,
        (fixed, moving),
        title=f"{fixed.name} and {moving.name}",
        details={"fixed image": str(fixed), "moving image": str(moving)},
        warnings=warnings,
        sections=following.sections(result, pairs) if report else {},
    )
    more = following.write(result)
    more.paths[:0] = written
    warnings += tuple(more.missing)
    rows = tables.table({name: result}, pairs)
    for warning in (*late, *more.missing):
        note(warning)
    if as_json:
        print_json(
            {"output": str(files.transform), **_document(result, rows, pairs, more, warnings)}
        )
    else:
        out.print(measures_table(rows))
        tell_certainty(result, pairs)
        for sentence in more.sentences:
            say(sentence)
        tell_written(*more.paths)
    if verbose:
        for key, value in result.provenance.items():
            say(f"{key}: {value}", "dim", messages)
    if result.cancelled:
        raise typer.Exit(130)
    if result.verdict == "failed":
        raise typer.Exit(3)
    if more.missing:
        raise typer.Exit(2)


def _checked_files(
    output: Path,
    warped: Path | None,
    images: Iterable[str],
    history: Path | None,
    report: Path | None,
) -> CaseFiles:
    """Where to write, all of it possible. Raises InputError, before the registration, if not."""
    return CaseFiles(
        checked_file(output, WRITABLE_TRANSFORMS, "a transform"),
        warped and checked_file(warped, WRITABLE_IMAGES, "an image"),
        tuple(
            (name, checked_file(Path(path), WRITABLE_IMAGES, "an image"))
            for name, path in map(named, images)
        ),
        history and checked_folder(history),
        report and checked_folder(report),
    )


def _check_start(start: Start | None, initial: bool, landmarks: bool, pull: bool) -> None:
    """Raise InputError for options of the start that do not go together."""
    if start and initial:
        raise InputError("--start and --initial-transform exclude each other: leave one out.")
    if start is Start.landmarks and not landmarks:
        raise InputError("--start landmarks needs --fixed-landmarks and --moving-landmarks.")
    if pull and not (initial and landmarks):
        raise InputError(
            "--pull needs --initial-transform, --fixed-landmarks and --moving-landmarks."
        )


def _start(
    start: Start | None,
    initial_transform: Path | None,
    pairs: LandmarkPairs | None,
    fixed_grid: Grid,
    pull: bool,
) -> dict[str, Any]:
    """The arguments of a Registration that say where it starts from."""
    if initial_transform is None:
        landmarks = {"landmarks": pairs} if start is Start.landmarks else {}
        return {"start": start.value, **landmarks} if start else {}
    initial = read_transform(initial_transform)
    if pairs and (turned := opposite_direction(initial, *pairs, "The start")):
        note(turned)
    if not pull:
        return {"initial_transform": initial}
    from ..outputs.correction import corrected
    from ..outputs.fields import as_field

    field = as_field(initial, fixed_grid)
    if min(field.grid.spacing) < _PULLED_MM:  # such as a voxel's, which would take many gigabytes
        field = field.resampled(Grid.covering(field.grid.corners(), _PULLED_MM))
    corrected_by_landmarks = corrected(field, *pairs)
    return {
        "initial_transform": corrected_by_landmarks,
        "pinned": pairs[0],
        "method": "gauss-newton",
    }


def _document(
    result: Result,
    rows: dict[str, dict],
    pairs: LandmarkPairs | None,
    more: Written,
    warnings: tuple[str, ...],
) -> dict[str, Any]:
    """The JSON document of a registration."""
    return {
        "written": [str(path) for path in more.paths],
        "warnings": list(warnings),
        "cancelled": result.cancelled,
        "seconds": result.seconds,
        "best": result.best,
        "verdict": result.verdict,
        "reasons": list(result.reasons),
        "confidence": certainty.told(result.provenance),
        **({"landmarks": certainty.at_landmarks(result, pairs)} if pairs else {}),
        "measures": rows,
        "steps": tables.by_step(result, pairs, regularity=False),
        "provenance": result.provenance,
        **more.measures,
    }


def _mask(path: Path | None, labels: str | None) -> Path | Volume | None:
    """The mask, with only these labels of it where some are given."""
    if path is None or labels is None:
        return path
    try:
        chosen = [int(label) for label in labels.split(",")]
    except ValueError:
        raise InputError(f"--mask-labels takes whole numbers such as 1,2, got {labels}.") from None
    return read_mask(path, chosen)


def _warnings(
    result: Result, start: Start | None, pairs: LandmarkPairs | None, pull: bool
) -> tuple[str, ...]:
    """What the user should know of this result, a sentence each."""
    found = []
    if result.cancelled:
        found.append("The registration was stopped early: this is the best field until then.")
    if result.provenance["warning"]:
        found.append(str(result.provenance["warning"]))
    if start is Start.landmarks:
        found.append("The start was fitted to the same landmarks that the error is measured at.")
    elif pairs is not None:
        doubts = opposite_direction(result.field, *pairs), landmarks_in_ras(result.field, *pairs)
        found += filter(None, doubts)
    if pull:
        found.append("These landmarks steered the result: their error is no measure of accuracy.")
    return tuple(found)
