"""`train`: new weights from breathing phantoms, interrupted and continued as you like."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import InputError
from ..paths import existing
from .console import checked_folder, made, messages, print_json
from .console import output as out

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_WINDOW = 50  # steps over which the shown errors are averaged


def train(
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for pairs, checkpoint and weights.")
    ] = Path("l2o-training"),
    phantoms: Annotated[int, typer.Option(min=1, help="Pairs to make and train on.")] = 60,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps in all (continued runs included).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of phantoms and training.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with fields of TrainingConfig.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the exported weights.")] = "trained",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps (see `devices`).")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads to use.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Train the network on phantoms and export it; the same command continues a stopped run.

    Use the weights with `register --model FOLDER/NAME.pt`.
    """
    folder = checked_folder(folder)
    settings = _settings(config)
    for key, value in (("steps", steps), ("seed", seed)):
        if value is not None:
            settings[key] = value

    import torch

    from ..engine.devices import choose_device

    training = _training_config(settings)
    chosen = choose_device(device)
    _check_checkpoint(folder / "checkpoint.pt", training)
    if threads is not None:
        torch.set_num_threads(threads)
    folder = made(folder)
    try:
        pairs = _pairs(made(folder / "pairs"), phantoms, training.seed, not quiet)
        errors = _run(pairs, folder / "checkpoint.pt", training, str(chosen), not quiet)
    except KeyboardInterrupt:
        messages.print(f"Stopped: the same command continues from {folder}.", markup=False)
        raise typer.Exit(130) from None
    path = folder / f"{name}.pt"
    card = _export(path, folder / "checkpoint.pt", training, phantoms, errors)
    if as_json:
        print_json({"weights": str(path), "sha256": card.sha256, "errors_mm": errors})
    else:
        out.print(
            f"Wrote {path}: use it with register --model {path}", markup=False, soft_wrap=True
        )


def _settings(path: Path | None) -> dict[str, Any]:
    """The keys and values of a flat TOML file; empty without one."""
    if path is None:
        return {}
    try:
        return tomllib.loads(existing(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as TOML ({error}): check its syntax.") from error


def _training_config(settings: dict[str, Any]):
    """A TrainingConfig. Raises InputError for unknown fields and values of another kind."""
    from ..training.loop import TrainingConfig

    defaults = asdict(TrainingConfig())
    for key, value in settings.items():
        if key not in defaults:
            known = ", ".join(field.name for field in fields(TrainingConfig))
            raise InputError(f"There is no training setting '{key}': use {known}.")
        settings[key] = _like(key, value, defaults[key])
    if settings.get("variant", "pyramid") not in ("pyramid", "paper"):
        raise InputError(f"There is no variant '{settings['variant']}': use pyramid or paper.")
    return TrainingConfig(**settings)


def _like(key: str, value: Any, default: Any) -> Any:
    """The value as the same kind as its default."""
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(default):
            raise InputError(f"The training setting '{key}' needs {len(default)} numbers.")
        return tuple(_like(key, v, d) for v, d in zip(value, default, strict=True))
    kinds = (int, float) if isinstance(default, float) else type(default)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise InputError(f"The training setting '{key}' must be like {default}, got {value!r}.")
    return type(default)(value)


def _check_checkpoint(path: Path, training) -> None:
    """Raise InputError where a checkpoint is there that other settings have made."""
    if not path.exists():
        return
    import torch

    try:
        made_with = torch.load(path, weights_only=True, map_location="cpu")["config"]
    except Exception as error:
        raise InputError(f"{path} is damaged: delete it to start again.") from error
    free = {"steps", "checkpoint_every"}
    other = [
        key
        for key, value in asdict(training).items()
        if key not in free and made_with.get(key) != value
    ]
    if other:
        raise InputError(
            f"{path} was made with another {other[0]} ({made_with.get(other[0])}): "
            "repeat that setting to continue, or choose another folder."
        )


def _pairs(folder: Path, count: int, seed: int, shown: bool) -> list[Path]:
    from ..training.phantoms import phantom_pairs

    with _bar(shown) as bar:
        task = bar.add_task("drawing phantoms", total=count, error="")
        return phantom_pairs(folder, count, seed, on_pair=lambda path: bar.advance(task))


def _run(pairs: list[Path], checkpoint: Path, training, device: str, shown: bool) -> dict:
    """Train to the end; returns the last mean keypoint errors (mm) before and after a rollout."""
    from ..training.loop import train as training_steps

    recent: deque = deque(maxlen=_WINDOW)
    with _bar(shown) as bar:
        task = bar.add_task("training", total=training.steps, error="")
        for progress in training_steps(pairs, checkpoint, training, device):
            recent.append((progress.before, progress.after))
            before, after = (sum(column) / len(recent) for column in zip(*recent, strict=True))
            error = f"error {before:.2f} -> {after:.2f} mm"
            bar.update(task, completed=progress.step, error=error)
            last = progress.step % training.checkpoint_every == 0
            if shown and not messages.is_terminal and last and len(recent) == _WINDOW:
                messages.print(f"step {progress.step}: {error}, {progress.seconds:.0f} s")
    return dict(zip(("before", "after"), (before, after), strict=True)) if recent else {}


def _export(path: Path, checkpoint: Path, training, phantoms: int, errors: dict):
    """Write the checkpoint's network as weights with a model card; returns the card."""
    import torch

    from ..engine.models import export_model
    from ..training.loop import new_network

    network = new_network(training)
    network.load_state_dict(
        torch.load(checkpoint, weights_only=True, map_location="cpu")["network"]
    )
    levels = 1 if training.variant == "paper" else 2
    return export_model(
        network,
        path,
        version="1",
        licence="Apache-2.0",
        iterations=(training.iterations[1],) * levels,
        trained_iterations=training.iterations,
        facts={
            "data": f"breathing phantoms, {phantoms} pairs",
            **asdict(training),
            "errors_mm": errors,
        },
    )


def _bar(shown: bool) -> Progress:
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[error]}"),
    )
    return Progress(*columns, console=messages, disable=not (shown and messages.is_terminal))
