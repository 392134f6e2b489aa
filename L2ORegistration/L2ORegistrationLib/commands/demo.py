"""`demo`: a synthetic patient, two optimisers, and everything that they write."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..core.errors import InputError
from ..core.files import Landmarks, read_volume, write_landmarks, write_volume
from ..core.paths import made
from ..engine.catalogue import DEFAULT, METHODS
from ..phantom.pair import make_anatomy, make_pair
from ..phantom.seeds import measured
from ..phantom.varied import with_texture
from ..reporting import certainty, tables
from ..reporting.case import CaseFiles
from .console import (
    checked_folder,
    follow,
    measures_table,
    messages,
    print_json,
    read_pairs,
    tell_certainty,
    tell_written,
)
from .console import output as out
from .options import Device, Json, Quiet, Threads

_SPACING = 1.5  # mm, nearly a CT's
_AMPLITUDE = 30.0  # mm at the base of the lungs: a deep breath
_SHIFT = 20.0  # mm: the patient lies elsewhere in the second scan


def demo(
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for images, transform, report and picture.")
    ] = Path("l2o-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Another number, another patient.")] = 7,
    threads: Threads = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a breathing phantom, register it with Adam and L2O and show what came out.

    The phantom's motion is known exactly; its landmarks are branches of vessels.
    """
    folder = made(checked_folder(folder))
    _check_own(folder)
    began = time.monotonic()
    if not quiet:
        messages.print("Drawing a breathing patient: expiration (fixed), inspiration (moving) ...")
    patient = measured(seed)
    anatomy = with_texture(make_anatomy(patient, _SPACING), patient)
    pair = make_pair(patient, anatomy=anatomy, amplitude_mm=_AMPLITUDE, shift_mm=_SHIFT, swap=False)
    for role in ("fixed", "moving"):
        write_volume(getattr(pair, role), folder / f"{role}.nii.gz")
        write_landmarks(Landmarks(getattr(pair, f"{role}_landmarks")), _points(folder, role))
    pairs = read_pairs(_points(folder, "fixed"), _points(folder, "moving"), pair.fixed.grid, None)

    from ..engine.registration import Registration  # imports torch, which takes seconds

    results = {}
    for method in ("adam", DEFAULT):
        name = METHODS[method].title
        if not quiet:
            messages.print(f"\n[bold]{name}[/]: lung masks, start, then its iterations ...")
        registration = Registration(
            pair.fixed, pair.moving, method=method, device=device, threads=threads
        )
        results[name] = follow(registration, pairs, shown=not quiet)
        if results[name].cancelled:
            messages.print("The demo was stopped: run it again for the whole of it.")
            raise typer.Exit(130)

    files = CaseFiles(folder / "transform.h5", folder / "warped.nii.gz", report=folder)
    written = files.write(
        dict(reversed(results.items())),  # the default first: its field is written
        pairs,
        title="Breathing phantom",
        details={"phantom seed": str(seed)},
        sections={"How sure it is": certainty.section(results[name], pairs)},
    )
    rows = tables.table(results, pairs)
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "seconds": time.monotonic() - began,
                "landmarks": len(pairs[0]),
                "measures": rows,
                "provenance": {name: result.provenance for name, result in results.items()},
            }
        )
        return
    out.print()
    out.print(measures_table(rows, f"TRE in mm at {len(pairs[0])} vessel branches"))
    tell_certainty(results[name])
    tell_written(*written)


def _check_own(folder: Path) -> None:
    """Raise InputError for a folder with somebody's scans, whose names are the phantom's, too.

    The middle of a phantom's fixed grid is the origin; a moving one alone is nobody's phantom.
    """
    fixed, moving = (folder / f"{role}.nii.gz" for role in ("fixed", "moving"))
    for path in (path for path in (fixed, moving) if path.exists()):
        grid = read_volume(path).grid
        own = fixed.exists() and np.ptp(grid.spacing) < 1e-4
        if path == fixed:
            middle = grid.to_world((np.array(grid.size) - 1) / 2)
            own &= np.abs(middle).max() < 1e-2
        if not own:
            raise InputError(f"{path} is no phantom and would be lost: choose another --out.")


def _points(folder: Path, role: str) -> Path:
    return folder / f"{role}_landmarks.csv"
