"""Table 1 of the paper on any data: its methods as columns, its numbers beneath those measured.

Falta et al., "Learning to optimise" (2022): mean target registration errors of LapIRN, VoxelMorph++
(VM++), Adam and L2O, the last two also after VM++. What has no weights is not run and says so.
"""

from __future__ import annotations

from pathlib import Path

from ..core.errors import InputError
from ..core.paths import atomic
from ..engine import catalogue
from ..engine.packaged import has_weights
from . import figure, table
from .methods import PREREGISTRATION
from .run import Measurement

# Column -> key of benchmark.methods.METHODS
COLUMNS = {
    "Initial": "initial",
    "LapIRN w/o Adam": "lapirn-network",
    "LapIRN w. Adam": "lapirn-affine",
    "VM++": "voxelmorph++-network",
    "Adam w/o Pre-Reg": "instance-affine",
    "Adam w. Pre-Reg": "instance-voxelmorph++",
    "L2O w/o Pre-Reg": "falta2022-affine",
    "L2O w. Pre-Reg": "falta2022-voxelmorph++",
}
PAPER = {
    "DIR-Lab 4DCT": (6.33, 2.06, 1.60, 4.40, 2.38, 1.33, 2.01, 1.69),
    "DIR-Lab COPDgene": (11.99, 3.96, 3.83, 5.30, 7.52, 2.18, 4.13, 2.24),
}
MEASURES = {
    "TRE, mm": "TRE mean",
    "SDlogJ": "SDlogJ",
    "folding, %": "folding %",
    "seconds": "seconds",
    "memory, GB": "GB",
}
NOT_TRAINED, FAILED = "not trained", "failed"
_NOTES = """\
All start from the affine that lays the lungs' surfaces onto each other; w. Pre-Reg is VM++ from
there. Adam is that of VM++: 50 iterations on MIND within the lungs, one level. L2O is the paper's
network. The paper's own numbers come from other weights, grids and crops.
"""


def weights_in(folder: Path | None) -> dict[str, str]:
    """The files of a folder that are named as the weights of learned methods, by method.

    Raises InputError where there is none.
    """
    if folder is None:
        return {}
    files = {name: folder / f"{m.weights}.pt" for name, m in _learned().items()}
    found = {name: str(path.resolve()) for name, path in files.items() if path.is_file()}
    if not found:
        names = ", ".join(path.name for path in files.values())
        raise InputError(f"{folder} holds none of {names}: check --weights.")
    return found


def trained(own: dict[str, str]) -> list[str]:
    """The keys of those columns whose weights are there: own ones by method, or packaged ones."""
    missing = {name for name in _learned() if name not in own and not has_weights(name)}
    return [key for key in COLUMNS.values() if not missing & set(key.rsplit("-", 1))]


def markdown(runs: list[Measurement], own: dict[str, str]) -> str:
    """The table: a block for each measure, in it a row for each data set; then the weights used."""
    found = table.summary(runs)
    known = trained(own)
    lines = []
    for title, column in MEASURES.items():
        lines += [f"| {title} | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
        for dataset, rows in found.items():
            cells = [_cell(rows.get(key), column, key in known) for key in COLUMNS.values()]
            lines.append(f"| {dataset} | " + " | ".join(cells) + " |")
            if column == "TRE mean" and dataset in PAPER:
                cells = [f"{value:.2f}" for value in PAPER[dataset]]
                lines.append("| *the paper* | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join([*lines, _NOTES, *_weights(own)]) + "\n"


def write(runs: list[Measurement], own: dict[str, str], folder: Path) -> None:
    """table1.md and table1.png: the table, and L2O against Adam, the error after each iteration."""
    with atomic(folder / "table1.md") as temporary:
        temporary.write_text(markdown(runs, own), encoding="utf-8")
    compared = [run for run in runs if run.method.startswith(("instance-", "falta2022-"))]
    figure.draw(compared, folder / "table1.png")


def _cell(measures: dict[str, float] | None, column: str, known: bool) -> str:
    if not known:
        return NOT_TRAINED
    if not measures:
        return ""
    if not measures["cases"]:
        return FAILED
    key, style, factor = table.COLUMNS[column]
    text = format(factor * measures[key], style) if key in measures else ""
    return f"{text} ({measures['failed']} {FAILED})" if measures["failed"] else text


def _weights(own: dict[str, str]) -> list[str]:
    """A line for each network: what it was trained on, and for how long."""
    from ..engine.models import load_model

    lines = []
    for name in ("lapirn", PREREGISTRATION, "falta2022"):
        title = catalogue.METHODS[name].title
        if name not in own and not has_weights(name):
            lines.append(f"- {title}: {NOT_TRAINED}")
            continue
        card, _ = load_model(own.get(name, catalogue.METHODS[name].weights))
        facts = [
            f"{card.facts[key]} {unit}".strip()
            for key, unit in (("data", ""), ("steps", "steps"), ("hours", "hours"), ("device", ""))
            if key in card.facts
        ]
        lines.append(f"- {title}: weights {card.name} {card.version}; " + ", ".join(facts))
    return lines


def _learned() -> dict[str, catalogue.Method]:
    return {name: method for name, method in catalogue.METHODS.items() if method.weights}
