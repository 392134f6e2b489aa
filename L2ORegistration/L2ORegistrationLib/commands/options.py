"""Options that several commands have: the same name, meaning and help in each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps (see `devices`).")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads to use.")]
Spacing = Annotated[
    float | None,
    typer.Option(
        min=0.1, help="Working resolution in mm: coarser is faster, finer than 1.5 no better."
    ),
]
FixedLandmarks = Annotated[
    Path | None,
    typer.Option(help="Points in fixed to measure at: .csv (LPS) .mrk.json .fcsv .txt"),
]
MovingLandmarks = Annotated[Path | None, typer.Option(help="Their partners in moving.")]
Cases = Annotated[str | None, typer.Option(help="Only cases of these names, such as case1,case2.")]
Skip = Annotated[
    bool, typer.Option("--skip", help="Go on without cases that miss files or are damaged.")
]
