"""`benchmark`: the paper's table on the user's own data, peers beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..benchmark.peers import PEERS
from ..core.errors import InputError
from ..core.paths import made
from ..engine.catalogue import DEFAULT, METHODS, of_variant
from . import options
from .console import checked_folder, messages, print_json, say
from .console import output as out
from .data import read_datasets, warn

_WHOLE = 160  # characters: names and numbers, however many are measured, are not cut


def benchmark(
    data: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=FOLDER",
            help="4dct, copd, empire10, learn2reg, nlst or pairs and where; phantom=SEEDS (0-4).",
        ),
    ],
    methods: Annotated[
        str,
        typer.Option(
            help=f"Some of initial,start,{','.join(reversed(METHODS))},keypoints,networks (alone, "
            "without Adam),preregistered (every method after VoxelMorph++)."
        ),
    ] = f"initial,start,adam,{DEFAULT}",
    table1: Annotated[
        bool,
        typer.Option("--table1", help="The paper's Table 1: its methods, instead of --methods."),
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder with own voxelmorph++.pt, lapirn.pt, falta2022.pt ..."),
    ] = None,
    peers: Annotated[
        bool,
        typer.Option(help=f"Also {', '.join(t for t, *_ in PEERS.values())}, those installed."),
    ] = False,
    cases: options.Cases = None,
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for tables, CSV and figure.")
    ] = Path("l2o-benchmark"),
    model: Annotated[
        str | None, typer.Option(help="Packaged weights or a .pt file, for l2o.")
    ] = None,
    iterations: options.Iterations = None,
    device: options.Device = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads, of every method alike.")
    ] = None,
    warm_up: Annotated[
        bool, typer.Option("--warm-up", help="Register once before the clock starts, as on a GPU.")
    ] = False,
    skip: options.Skip = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Measure accuracy, regularity, time and memory of every method on every case.

    Each registration runs in a process of its own: seconds are those of the registration with its
    images in memory, GB the peak of its process. Writes table.md, cases.csv, points.csv (the error
    at each landmark), iterations.csv and iterations.png; they are complete up to the last case
    when the run is stopped. --table1 also writes table1.md, laid out as in the paper, and
    table1.png, the error after each iteration of L2O and Adam; what has no weights is not run and
    called not trained.
    """
    from ..benchmark import figure, table
    from ..benchmark import table1 as papers
    from ..benchmark.methods import chosen
    from ..benchmark.peers import installed, missing
    from ..benchmark.run import run
    from ..datasets.registry import DATASETS
    from ..engine.devices import choose_device
    from ..engine.models import load_model

    own = papers.weights_in(weights)
    if table1:
        rows = papers.trained(own) + (installed() if peers else [])
    else:
        rows = chosen([m.strip() for m in methods.split(",") if m.strip()], peers)
    if model is not None:
        if not any(row.startswith(f"{DEFAULT}-") for row in rows):
            raise InputError(f"--model is for rows of {DEFAULT} and there are none: leave it out.")
    for method, path in {**own, **({DEFAULT: model} if model else {})}.items():
        card, _ = load_model(path)
        if of_variant(card.variant) != method:
            raise InputError(
                f"The weights {path} belong to the method {of_variant(card.variant)}, not to "
                f"{method}: give others."
            )
    for row in rows:
        if method := METHODS.get(row.rsplit("-", 1)[0]):
            method.plan(iterations)
    choose_device(device)
    if peers and not installed():
        raise InputError(f"--peers needs some of {', '.join(missing())}: pip install them.")
    if peers and missing():
        warn(f"Without {', '.join(missing())}: pip install what you want beside us.")
    datasets = read_datasets(data, cases, skip, tuple(DATASETS))
    folder = made(checked_folder(folder))
    settings = {
        "model": model,
        "iterations": iterations,
        "weights": own,
        "device": device,
        "threads": threads,
        "warm_up": warm_up,
    }
    runs = []
    for done in run(datasets, rows, settings):
        runs.append(done)
        if not quiet:
            tell(done)
        if done.method == rows[-1]:
            table.write(runs, folder)
            figure.draw(runs, folder / "iterations.png")
            if table1:
                papers.write(runs, own, folder)
    if as_json:
        print_json({"folder": str(folder), "results": table.summary(runs)})
    else:
        show(runs, folder)
        if table1:
            say(papers.markdown(runs, own))
    if any("error" in done.result for done in runs):
        raise typer.Exit(1)


def tell(run) -> None:
    """Print a line on stderr about one run."""
    from ..benchmark.table import METHODS, case_row

    row = case_row(run)
    line = f"{run.dataset} {run.case}  {METHODS[run.method].title}: "
    if row["error"]:
        say(line + row["error"], "red", messages)
        return
    error = f"TRE {row['tre_mean']:.2f} mm, " if "tre_mean" in row else ""
    memory = f", {row['peak_gb']:.2f} GB" if "peak_gb" in row else ""
    say(f"{line}{error}{row['seconds']:.1f} s{memory}", to=messages)


def show(runs: list, folder: Path) -> None:
    """Print the tables of these runs and the folder in which they are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from ..benchmark import table

    wide = Console(width=max(out.width, _WHOLE), highlight=False)
    seconds = table.stages(runs)
    for dataset, methods in table.summary(runs).items():
        view = Table(title=dataset, box=box.SIMPLE_HEAD, title_justify="left", padding=0)
        view.add_column("", no_wrap=True)
        columns = table.measured(methods)
        for name in columns:
            view.add_column(name, justify="right")
        for method, measures in methods.items():
            view.add_row(table.title(method, measures), *table.cells(measures, columns))
        wide.print(view)
        for method, parts in seconds.get(dataset, {}).items():
            text = ", ".join(f"{name} {value:.2f}" for name, value in parts.items())
            wide.print(f"{table.METHODS[method].title}, seconds: {text}", soft_wrap=True)
    say(f"Wrote {folder}")
