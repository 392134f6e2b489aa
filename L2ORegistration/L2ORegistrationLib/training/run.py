"""A training in its folder: checkpoint, log and record of the data, and in the end the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from ..core.errors import InputError
from ..core.files import atomic
from ..engine.catalogue import METHODS, of_variant
from ..engine.models import ModelCard, export_model, load_model
from . import card
from .config import AT_ONCE, TrainingConfig
from .log import FILE, TrainingLog, read_log, recent_errors
from .loop import Rollout, beginner, check_checkpoint, load_checkpoint, restore, train
from .predictions import start_network
from .workers import Workers

CHECKPOINT, DATA = "checkpoint.pt", "data.json"
PairFiles = dict[str, list[Path]]  # files of prepared pairs by the title of their data set


def check(folder: Path, config: TrainingConfig, phantoms: int) -> None:
    """Raise InputError for what would end the training, before hours of preparing pairs for it.

    phantoms: how many are asked for.
    """
    step = check_checkpoint(folder / CHECKPOINT, config)
    beginner(config)
    if config.start_model:
        start_network(config.start_model)
    before = _recorded(folder / DATA) if step else None
    if before is not None and len(before.get(card.PHANTOMS, ())) != phantoms:
        raise _other_data(folder, before)


def run(
    folder: Path, pairs: PairFiles, config: TrainingConfig, device: str, workers: Workers
) -> Iterator[Rollout]:
    """Train in this folder, which exists, or continue there; yields every rollout.

    The data sets may come in another order than before: the draws go by the recorded one.
    Raises InputError where the folder's checkpoint was made with other settings or other data.
    """
    step = check_checkpoint(folder / CHECKPOINT, config)
    data = _names(pairs)
    before = _recorded(folder / DATA) if step else None
    if before not in (None, data):
        raise _other_data(folder, before)
    data = before or data
    files = [path for title in data for path in pairs[title]]
    steps = train(files, folder / CHECKPOINT, config, device, workers)
    if not workers.first:
        yield from steps
        return
    with atomic(folder / DATA) as temporary:
        temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
    with TrainingLog(folder, step) as log:
        for rollout in steps:
            log.add(rollout)
            yield rollout


def export(
    folder: Path,
    name: str,
    pairs: PairFiles,
    config: TrainingConfig,
    device: str,
    licence: str | None = None,
) -> ModelCard:
    """Write the checkpoint's network as weights NAME.pt with their card, which is returned.

    licence: None for what `card.licence` says of this data.
    """
    state = load_checkpoint(folder / CHECKPOINT)
    network = beginner(config)  # as many networks a level as the weights that it began with
    restore(network, state)
    data = _names(pairs)
    begun = [load_model(name)[0] for name in (config.begin_with, config.start_model) if name]
    stages = METHODS[of_variant(config.variant)].stages
    usual = next(stage.iterations for stage in reversed(stages) if stage.learned)
    usual = 1 if config.variant in AT_ONCE else usual
    iterations = (usual, usual) if usual else config.iterations
    return export_model(
        network,
        folder / f"{name}.pt",
        version="1",
        licence=licence or card.licence(data, begun),
        iterations=iterations[1],
        trained_iterations=iterations,
        compares=config.compares,
        facts=card.facts(
            data,
            config,
            steps=state["step"],
            seconds=state.get("seconds", 0.0),
            device=device,
            errors=recent_errors(read_log(folder / FILE)),
        ),
    )


def _names(pairs: PairFiles) -> dict[str, list[str]]:
    return {title: [unquote(path.stem) for path in paths] for title, paths in pairs.items()}


def _recorded(path: Path) -> dict[str, list[str]] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _other_data(folder: Path, before: dict[str, list[str]]) -> InputError:
    counts = ", ".join(f"{title}: {len(names)} pairs" for title, names in before.items())
    return InputError(
        f"{folder} was trained on other data ({counts}): give the same to continue, or choose "
        "another folder."
    )
