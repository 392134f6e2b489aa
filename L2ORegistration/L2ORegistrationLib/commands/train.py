"""`train`: new weights from phantoms and real scans, interrupted and continued as you like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import InputError
from . import options
from .console import checked_folder, messages, print_json, say
from .cross_validation import cross_validate
from .data import read_datasets
from .experiment import Experiment, one_voice

if TYPE_CHECKING:
    from ..training.config import TrainingConfig

_DATA = ("4dct", "copd", "empire10", "learn2reg", "pairs")
_PHANTOMS = 96  # where there is no other data


def train(
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for pairs, checkpoint, log and weights.")
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
        str | None,
        typer.Option(
            help="l2o, falta2022, voxelmorph++, lapirn (all but l2o also with -cpu), or a .toml."
        ),
    ] = None,
    start_model: Annotated[
        str | None,
        typer.Option(
            help="VoxelMorph++ weights that falta2022 goes on from; {fold} is the fold's number."
        ),
    ] = None,
    begin_with: Annotated[
        str | None,
        typer.Option(help="Weights to begin with, packaged or a .pt file; else random ones."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the exported weights; trained where left out.")
    ] = None,
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
    from ..training.workers import device_of, joined

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    cross = folds or fold is not None
    with one_voice(), joined() as workers:
        name = _checked_name(name, cross)
        settings = _settings(
            config, steps=steps, seed=seed, start_model=start_model, begin_with=begin_with
        )
        datasets, phantoms = _material(data, cases, skip, phantoms, cross)
        experiment = Experiment(
            folder=checked_folder(folder),
            config=settings,
            phantoms=phantoms,
            skip=skip,
            device=str(device_of(device, workers)),
            workers=workers,
            licence=licence,
            shown=workers.first and not quiet,
        )
        try:
            if cross:
                runs = cross_validate(
                    datasets, fold, experiment, {"device": device, "threads": threads}
                )
            else:
                card = experiment.train(datasets, experiment.folder, name)
        except KeyboardInterrupt:
            messages.print(
                f"Stopped: the same command continues from {experiment.folder}.", markup=False
            )
            raise typer.Exit(130) from None
    if not workers.first:
        return
    if cross:
        _show_runs(runs, experiment.folder, as_json)
    else:
        _show_weights(card, experiment.folder, as_json)


def _checked_name(name: str | None, cross: bool) -> str:
    """The name of the weights; cross: of folds, which have names of their own.

    Raises InputError for one that weights cannot have, such as those of a training's files.
    """
    if cross and name is not None:
        raise InputError("Each fold's weights lie in a folder of its own: leave --name out.")
    name = "trained" if name is None else name
    if name.casefold() in ("", "checkpoint", "data") or Path(name).name != name:
        raise InputError(f"The weights cannot be called '{name}': choose another --name.")
    return name


def _settings(config: str | None, **given: int | str | None) -> TrainingConfig:
    """The configuration, with what the command line says instead. Raises InputError."""
    from ..training.config import read_config

    return read_config(config, **{k: v for k, v in given.items() if v is not None})


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
        say(f"Wrote {path}: use it with register --model {path}")


def _show_runs(runs: list, folder: Path, as_json: bool) -> None:
    from ..benchmark import table
    from .benchmark import show

    if as_json:
        print_json({"folder": str(folder), "results": table.summary(runs)})
    else:
        show(runs, folder)
    if any("error" in run.result for run in runs):
        raise typer.Exit(1)
