"""Options that several commands have: the same name, meaning and help in each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps (see `devices`).")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads to use.")]


def _iterations(text: str) -> int | list[int]:
    """Iterations on all levels, "8", or on each of them, "3,4,9"; as JSON gives them back."""
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no number, such as 8, nor 3,4,9.") from None
    return numbers if len(numbers) > 1 else numbers[0]


Iterations = Annotated[
    Any,
    typer.Option(
        parser=_iterations,
        metavar="N|N,N,N",
        help="On each level, or on the coarsest and so on; the method's own if left out.",
    ),
]
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
