"""The images that `register --image NAME=FILE` can write of a result, a line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.errors import InputError
from ..core.geometry import Volume
from ..core.jacobian import jacobian_determinant

if TYPE_CHECKING:
    from ..engine.result import Result


@dataclass(frozen=True)
class Output:
    """title: in a few words; compute(result): the image."""

    title: str
    compute: Callable[[Result], Volume]


OUTPUTS: dict[str, Output] = {
    "warped": Output("moving in the geometry of fixed", lambda result: result.warped()),
    "jacobian": Output(
        "Jacobian determinant of the field, on its grid: 1 keeps volume",
        lambda result: jacobian_determinant(result.field),
    ),
    "confidence": Output(
        "mm that 90 % of such places of the lungs are off by less than, in the geometry of fixed",
        lambda result: result.confidence_image(result.fixed.grid),
    ),
}


def register_output(name: str, output: Output) -> None:
    """Add an output from outside."""
    if name in OUTPUTS:
        raise ValueError(f"There is an output '{name}' already.")
    OUTPUTS[name] = output


def named(text: str) -> tuple[str, str]:
    """(name, file) of "NAME=FILE". Raises InputError for another form or an unknown name."""
    name, sign, path = text.partition("=")
    if not sign or not path or name not in OUTPUTS:
        known = ", ".join(OUTPUTS)
        raise InputError(f"--image takes NAME=FILE with one of {known} as name, got '{text}'.")
    return name, path
