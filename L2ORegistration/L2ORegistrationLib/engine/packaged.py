"""Which weights are packaged and where, and what is said where there are none. No torch."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import InputError
from .catalogue import METHODS, OLD_NAMES

# Beside the library in Slicer and in a clone of the repository, inside it where pip installed it.
_BESIDE = Path(__file__).parents[2] / "Resources" / "Models"
FOLDER = _BESIDE if _BESIDE.is_dir() else Path(__file__).parents[1] / "weights"


def weights_file(given: str | Path) -> Path:
    """The .pt file of packaged weights, by their name or an earlier one; a .pt file as it is."""
    if Path(given).suffix == ".pt":
        return Path(given)
    return FOLDER / f"{OLD_NAMES.get(str(given), given)}.pt"


def has_weights(name: str) -> bool:
    """Whether a method, or a start that is one, runs as installed: it needs none, or has its own.

    name: a key of `catalogue.METHODS` or `catalogue.STARTS`.
    """
    weights = METHODS[name].weights if name in METHODS else ""
    return not weights or (FOLDER / f"{weights}.pt").is_file()


def checked_weights(name: str, given: object = None, role: str = "method") -> None:
    """Raise InputError where weights are needed, none are given and none packaged.

    role: "method" or "start", as which `name` was chosen.
    """
    if not given and not has_weights(name):
        option = "--model" if role == "method" else "--start-model"
        raise InputError(
            f"The {role} '{name}' comes without trained weights: train them by "
            f"`l2o-registration train --config {name}` and give the .pt file as {option}, or "
            f"choose another {role}."
        )
