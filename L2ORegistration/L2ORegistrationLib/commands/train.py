"""`train`: new weights from phantoms and real scans, interrupted and continued as you like."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import InputError
from . import options
from .console import checked_folder, messages, print_json
from .console import output as out
from .cross_validation import cross_validate
from .data import read_datasets
from .experiment import Experiment, one_voice

_DATA = ("4dct", "copd", "empire10", "learn2reg", "pairs")
_PHANTOMS = 120  # where there is no other data


def train(
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for pairs, checkpoint, log and weights.")
    ] = Path("l2o-training"),
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help=f"Real scans: {', '.join(_DATA)} and where."),
    ] = None,
    cases: options.Cases = None,
    skip: options.Skip = False,
    phantoms: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=f"Breathing phantoms to mix in. Default: {_PHANTOMS} without --data, else 0.",
        ),
    ] = None,
    folds: Annotated[
        bool, typer.Option("--folds", help="The paper's five-fold cross-validation, measured.")
    ] = False,
    fold: Annotated[
        int | None, typer.Option(min=1, max=5, help="Only this fold of the cross-validation.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps in all (continued runs included).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of phantoms and training.")] = None,
    config: Annotated[
        str | None, typer.Option(help="l2o, falta2022, falta2022-cpu, or a TOML file.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the exported weights.")] = "trained",
    licence: Annotated[str | None, typer.Option(help="Licence of the exported weights.")] = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Train the network and export it; the same command continues a stopped run.

    Use the weights with `register --model FOLDER/NAME.pt`. Started by torchrun, several processes
    train together. Prepared pairs are kept in FOLDER/pairs: delete them when the scans change.
    """
    import torch

    from ..training.config import read_config
    from ..training.workers import device_of, joined

    if threads is not None:
        torch.set_num_threads(threads)
    with one_voice(), joined() as workers:
        folder = checked_folder(folder)
        if name == "checkpoint" or Path(name).name != name:
            raise InputError(f"The weights cannot be called '{name}': choose another --name.")
        overrides = {"steps": steps, "seed": seed}
        training = read_config(config, **{k: v for k, v in overrides.items() if v is not None})
        datasets, phantoms = _material(data, cases, skip, phantoms, folds or fold is not None)
        experiment = Experiment(
            folder=folder,
            config=training,
            phantoms=phantoms,
            skip=skip,
            device=str(device_of(device, workers)),
            workers=workers,
            licence=licence,
            shown=workers.first and not quiet,
        )
        try:
            if folds or fold is not None:
                measuring = {"device": device, "threads": threads}
                runs = cross_validate(datasets, fold, experiment, measuring)
                show = partial(_show_runs, runs)
            else:
                card = experiment.train(datasets, folder, name)
                show = partial(_show_weights, card)
        except KeyboardInterrupt:
            messages.print(f"Stopped: the same command continues from {folder}.", markup=False)
            raise typer.Exit(130) from None
    if workers.first:
        show(folder, as_json)


def _material(
    data: list[str] | None, cases: str | None, skip: bool, phantoms: int | None, folds: bool
) -> tuple[dict, int]:
    """The cases by data set and the number of phantoms. Raises InputError for nothing at all."""
    if folds and (cases or skip):
        raise InputError("The folds need every case: leave --cases and --skip out.")
    datasets = read_datasets(data or [], cases, skip, _DATA)
    if phantoms is None:
        phantoms = 0 if datasets else _PHANTOMS
    if not datasets and not phantoms:
        raise InputError("There is nothing to train on: give --data, or --phantoms above 0.")
    return datasets, phantoms


def _show_weights(card, folder: Path, as_json: bool) -> None:
    path = folder / f"{card.name}.pt"
    if as_json:
        errors = card.facts["errors_mm"]
        print_json({"weights": str(path), "sha256": card.sha256, "errors_mm": errors})
    else:
        out.print(
            f"Wrote {path}: use it with register --model {path}", markup=False, soft_wrap=True
        )


def _show_runs(runs: list, folder: Path, as_json: bool) -> None:
    from ..benchmark import table
    from .benchmark import show

    if as_json:
        print_json({"folder": str(folder), "results": table.summary(runs)})
    else:
        show(runs, folder)
    if any("error" in run.result for run in runs):
        raise typer.Exit(1)
