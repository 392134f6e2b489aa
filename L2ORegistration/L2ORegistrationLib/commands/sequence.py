"""`sequence`: the phases of a 4DCT in, a transform for each and the motion-compensated mean out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TextColumn, TimeRemainingColumn

from ..core.errors import InputError
from ..core.files import read_landmarks, read_mask
from ..core.measures import check_landmarks_inside
from ..core.paths import at_home, counted, made
from .console import checked_folder, messages, note, print_json, progress_bar, say, tell_written
from .console import output as out_console
from .options import Device, Json, Quiet, Spacing, Threads

_INSIDE = 0.9  # of a contour's voxels, at least


def sequence(
    phases: Annotated[
        list[Path],
        typer.Argument(
            metavar="PHASES...",
            help="Files or DICOM folders in order, or one 4-D image, .seq.nrrd or folder.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    reference: Annotated[
        str, typer.Option(help="Number of a phase, from 0, or mean: the mean position.")
    ] = "0",
    landmarks: Annotated[
        Path | None, typer.Option(help="Points in the reference to follow: .csv .mrk.json .fcsv")
    ] = None,
    contour: Annotated[
        Path | None, typer.Option(help="Mask in the reference, whose centre is followed.")
    ] = None,
    spacing: Spacing = None,
    smooth: Annotated[bool, typer.Option(help="Smooth the motion round the cycle.")] = True,
    images: Annotated[bool, typer.Option(help="Also write each phase warped.")] = True,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Register all PHASES of a breath to one of them, or to their mean position.

    Each phase gets a verdict: good, check or failed. Where one is failed, all is still written and
    the exit code is 3. Ctrl-C keeps the phases that are finished and exits with code 130.
    """
    out = checked_folder(out)
    if out.resolve() in [at_home(path).resolve() for path in phases]:
        raise InputError(
            f"{out} holds the phases, and the results would be read as phases by the next run: "
            "give another --out."
        )
    from ..sequence.phases import read_phases

    found = read_phases(phases, on_skip=note)
    chosen: int | str = reference
    if reference != "mean":
        try:
            chosen = int(reference)
        except ValueError as error:
            raise InputError(
                f"--reference {reference}: give the number of a phase, from 0, or mean."
            ) from error
    names = [phase.name for phase in found]
    if names != sorted(names, key=counted):
        order = ", ".join(names)
        note(f"The phases are taken in the order {order}: is that the order of the breath?")
    grid = found[0].volume.grid
    if chosen == "mean" and (landmarks or contour):
        note(
            "The mean position is no scan: points and contour must have been drawn on the "
            "mean.nii.gz of an earlier run."
        )
    points = read_landmarks(landmarks, grid) if landmarks else None
    if points is not None:
        check_landmarks_inside(points.points, grid, "reference")
    mask = read_mask(contour) if contour else None
    if mask is not None and grid.contains(mask.marked_points(most=20_000)).mean() < _INSIDE:
        raise InputError(f"{contour} lies outside the reference: give a mask that was drawn on it.")
    options = {"device": device, "threads": threads}
    if spacing is not None:
        options["spacing"] = spacing

    from ..sequence.registration import SequenceRegistration  # imports torch

    registration = SequenceRegistration(
        [phase.volume for phase in found], reference=chosen, smooth=smooth, **options
    )
    if not quiet:
        messages.print(f"{len(found)} phases: finding the lungs ...")
    if not _followed(registration, [phase.name for phase in found], shown=not quiet):
        messages.print("Stopped: the phases that are finished are kept.")
    result = registration.result()

    from ..sequence.outputs import doubts, loop_summary, phase_table, write_sequence

    names = [phase.name for phase in found]
    title = phases[0].name if len(phases) == 1 else "4DCT"
    written = write_sequence(
        result,
        names,
        made(out),
        landmarks=points,
        contour=mask,
        images=images,
        title=title,
        paths=[phase.path for phase in found],
    )
    loops = loop_summary(result)
    if as_json:
        print_json(
            {
                "written": [str(path) for path in written],
                "cancelled": result.cancelled,
                "seconds": result.seconds,
                "loops": loops,
                "verdict": result.verdict,
                "phases": phase_table(result, names),
                "provenance": result.provenance,
            }
        )
    else:
        said = f"Verdict: {result.verdict}", *doubts(result, names)
        say("\n".join(said))
        for name, values in loops.items():
            out_console.print(
                f"Loop, {name}: mean {values['mean']:.2f}, p95 {values['p95']:.2f} mm"
            )
        tell_written(*written)
    if result.cancelled:
        raise typer.Exit(130)
    if result.verdict == "failed":
        raise typer.Exit(3)


def _followed(registration, names: list[str], *, shown: bool) -> bool:
    """Run it with a line for each phase; False where it ended after the first one, before all."""
    done = 0
    left = TextColumn("left:"), TimeRemainingColumn(compact=True)
    with progress_bar(*left, shown=shown) as bar:
        task = bar.add_task("registrations", total=registration.total)
        try:
            for step in registration:
                done = step.index
                bar.update(task, completed=done)
                if shown:
                    what = f"phase {names[step.phase]}" if done < step.total else "closed loops"
                    messages.print(f"{done:>5} of {step.total}  {what:<16}{step.seconds:>7.1f} s")
        except KeyboardInterrupt:
            if not done:
                messages.print("Stopped before the first phase: there is nothing to keep.")
                raise
            return False
        except InputError as error:  # of one phase: those before it are kept
            if not done:
                raise
            say(str(error), "red", messages)
            return False
    return True
