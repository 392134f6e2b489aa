"""`invert`: the inverse of a transform, with what its round trip misses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.files import (
    WRITABLE_TRANSFORMS,
    read_mask,
    read_transform,
    read_volume,
    write_transform,
)
from .console import check_apart, checked_file, note, print_json, say, tell_written
from .options import Json


def invert(
    transform: Annotated[
        Path, typer.Argument(metavar="TRANSFORM", help="Fixed point -> moving point; any format.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Its inverse: .h5 .tfm .nrrd .mha .nii.gz")
    ],
    fixed_mask: Annotated[
        Path | None, typer.Option(help="Where the round trip is measured, such as the lungs.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="The fixed image: for a transform without a grid.")
    ] = None,
    moving: Annotated[
        Path | None, typer.Option(help="The moving image: to say what leads beyond it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the inverse of TRANSFORM, moving point -> fixed point, and measure its round trip."""
    from ..outputs import inverse
    from ..outputs.fields import as_field
    from ..outputs.record import Scan, beside, read_record

    output = checked_file(output, WRITABLE_TRANSFORMS, "a transform")
    check_apart([output, beside(output)], [transform, fixed_mask, reference, moving])
    motion = read_transform(transform)
    mask = read_mask(fixed_mask) if fixed_mask else None
    grids = [read_volume(path).grid if path else None for path in (reference, moving)]
    field = as_field(motion, grids[0])
    points = mask.marked_points(most=300_000) if mask else None
    found = inverse.invert(field, points, grids[1])
    write_transform(found.field, output)
    warnings = []
    if record := read_record(transform):
        warnings = record.warnings(transform.name)
        scans = ("fixed", "--reference", reference), ("moving", "--moving", moving)
        for (role, option, path), grid in zip(scans, grids):
            if grid:
                said = f"{option} {path.name}"
                warnings += record.misplaced(Scan.of(grid, path), role, said)
        record.inverted().write(output)
    for warning in warnings:
        note(warning)
    if as_json:
        print_json({"output": str(output), "round_trip_mm": found.summary(), "warnings": warnings})
        return
    say(found.sentence())
    tell_written(output)
