"""What the model card says of a training: data, seed, code, time, errors and limits."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from .. import __version__
from ..engine.models import ModelCard
from .config import TrainingConfig

PHANTOMS = "breathing phantoms"
FREE = "Apache-2.0"
_LIMITS = "for research; nothing is known of scans unlike those trained on; see the README"


def facts(
    data: dict[str, list[str]],
    config: TrainingConfig,
    *,
    steps: int,
    seconds: float,
    device: str,
    errors: dict[str, float],
) -> dict:
    """The `facts` of a ModelCard. data: the names of the pairs of each data set."""
    return {
        "data": ", ".join(f"{name} ({len(pairs)})" for name, pairs in data.items()) + " pairs",
        "seed": config.seed,
        "steps": steps,
        "hours": round(seconds / 3600, 3),
        "device": device,
        "software": f"l2o-registration {__version__}",
        "commit": commit(),
        "errors_mm": errors,
        "limits": _LIMITS,
        "settings": asdict(config),
    }


def licence(data: dict[str, list[str]], begun: Iterable[ModelCard]) -> str:
    """What is said where nobody chose a licence: weights from patients' scans may not be free.

    begun: the cards of weights that the training went on from.
    """
    free = set(data) == {PHANTOMS} and all(card.licence == FREE for card in begun)
    return FREE if free else "not stated; mind the terms of the data"


def commit(file: Path = Path(__file__)) -> str:
    """The git commit of the code, ending in -dirty where it was changed; "unknown" without git."""
    try:
        # An installed package may lie in a repository that is not its own.
        _git(file, "ls-files", "--error-unmatch", file.name)
        return _git(file, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(file: Path, *arguments: str) -> str:
    command = ["git", "-C", str(file.parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()
