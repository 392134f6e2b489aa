"""Cross-validation: each fold's weights are trained, then measured on the cases left out."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.paths import atomic, checksum
from ..engine.catalogue import of_variant

if TYPE_CHECKING:
    from ..benchmark.run import Measurement
    from ..datasets.cases import Case
    from ..datasets.folds import Fold
    from .experiment import Experiment


def cross_validate(
    datasets: dict[str, list[Case]],
    only: int | None,
    experiment: Experiment,
    options: dict[str, Any],
) -> list[Measurement]:
    """Train and measure all folds, or one; tables over all folds measured so far.

    A fold has its own folder fold-K; what is trained and measured there is kept. options: device
    and threads of the measured registrations. Returns the runs in the tables, in the first process
    only. Raises InputError where the data makes no folds, and, before the first is trained, for
    what `check` refuses in any of them.
    """
    from ..benchmark import figure, table
    from ..datasets.folds import folds_of
    from ..training.run import check

    folds = folds_of(datasets)
    chosen = [fold for fold in folds if only in (None, fold.number)]
    for fold in chosen:
        check(_folder(experiment, fold), _of_fold(experiment, fold).config, experiment.phantoms)
    for fold in chosen:
        folder = _folder(experiment, fold)
        own = _of_fold(experiment, fold)
        own.train(fold.training, folder, folder.name)
        own.workers.shared(lambda e=own, f=fold: _measure(e, f, options))
    if not experiment.workers.first:
        return []
    stored = (_stored(_folder(experiment, fold)) for fold in folds)
    runs = [run for _, found in stored for run in found]
    table.write(runs, experiment.folder)
    figure.draw(runs, experiment.folder / "iterations.png")
    return runs


def _folder(experiment: Experiment, fold: Fold) -> Path:
    return experiment.folder / f"fold-{fold.number}"


def _of_fold(experiment: Experiment, fold: Fold) -> Experiment:
    """The experiment with the start's weights of this fold, where their path names {fold}."""
    model = experiment.config.start_model.replace("{fold}", str(fold.number))
    return replace(experiment, config=replace(experiment.config, start_model=model))


def _rows(method: str, prediction: bool) -> list[str]:
    """What is measured of a method in the benchmark; others don't differ by fold."""
    from ..benchmark.methods import METHODS, PREREGISTRATION, chosen

    more = [f"{method}-network"] + ([f"{method}-{PREREGISTRATION}"] if prediction else [])
    return chosen(["initial", method], False) + [key for key in more if key in METHODS]


def _measure(experiment: Experiment, fold: Fold, options: dict[str, Any]) -> None:
    """Measure the test cases with the fold's weights, unless that was done without a failure."""
    from ..benchmark.methods import PREREGISTRATION
    from ..benchmark.run import run
    from .benchmark import tell

    folder = _folder(experiment, fold)
    weights = (folder / f"{folder.name}.pt").resolve()
    measured, runs = _stored(folder)
    if measured == checksum(weights) and not any("error" in run.result for run in runs):
        return
    method, prediction = of_variant(experiment.config.variant), experiment.config.start_model
    own = {PREREGISTRATION: prediction} if prediction else {}
    options = {**options, "weights": {**own, method: str(weights)}}
    runs = []
    for done in run(fold.test, _rows(method, bool(prediction)), options):
        runs.append(done)
        if experiment.shown:
            tell(done)
    content = {"weights": checksum(weights), "runs": [asdict(run) for run in runs]}
    with atomic(folder / "runs.json") as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def _stored(folder: Path) -> tuple[str | None, list[Measurement]]:
    """The checksum of the weights measured in this folder, and what was measured; or nothing."""
    from ..benchmark.run import Measurement

    path = folder / "runs.json"
    if not path.exists():
        return None, []
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["weights"], [Measurement(**run) for run in content["runs"]]
