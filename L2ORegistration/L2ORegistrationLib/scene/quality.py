"""TG-132's rows for an output transform as a table node: landmarks, structures, lungs, consistency.

Beside them stands the verdict, which the registration left with its iterations.
"""

from __future__ import annotations

from ..core.errors import InputError
from ..core.geometry import Volume
from ..outputs.quality import Row, assess
from . import landmarks, nodes, transforms
from .history import History, title
from .outputs import backward_of, masks_by_name, segments_by_name
from .tasks import Task


def quality_task(node, markups=None, structures=None, lungs=None, backward=None) -> Task:
    """(table node, rows) of `outputs.quality.assess`. lungs: of lungs_of(), None: not looked at.

    Raises InputError for structures of which no name is in both scans.
    """
    field = transforms.field_of(node)
    pairs = None
    if markups is not None and None not in markups:
        pairs = tuple(one.points for one in landmarks.pairs(*markups, below=node))
    both = None
    if structures is not None and None not in structures:
        both = _common(*structures, node)
    other = backward if backward is not None else backward_of(node)
    back = None if other is None else transforms.field_of(other)

    def compute() -> list[Row]:
        masks = {"lungs": lungs()} if lungs else {}
        return assess(field, pairs, both() if both else {}, masks, back)

    def show(rows: list[Row]) -> tuple:
        name = f"{node.GetName()} QA after TG-132"
        table = nodes.owned(node, "qualityTable", "vtkMRMLTableNode", name)
        columns = {
            "TG-132": [f"{row.name}, {row.where}" for row in rows],
            "Measured": [row.value for row in rows],
            "Tolerance": [f"{row.verdict}: {row.tolerance}" for row in rows],
        }
        nodes.fill_table(table, columns)
        return table, rows

    return Task(compute, show, (node,))


def verdict_of(node) -> str:
    """What the registration thought of its result, with its reasons; "" where that is not known."""
    history = History.of(node)
    described = {} if history is None else history.description
    if "verdict" not in described:
        return ""
    said = " ".join((f"{described['verdict']}.", described.get("reasons", ""))).strip()
    best = described.get("best", str(history.result))  # scenes of before don't say it
    if best != str(history.result):
        said += f" (Of {title(int(best))}, not of what was kept.)"
    return said


def _common(fixed, moving, node):
    """A function without a node in it: the masks of the segments that both nodes have, by name.

    Raises InputError where there are none, as the function does where all of them are empty.
    """
    if fixed is moving:
        raise InputError("Both structures are the same node: choose those of each scan.")
    none = InputError(
        f"'{fixed.GetName()}' and '{moving.GetName()}' have no segment of the same name with "
        "something in it: rename or draw them."
    )
    both = set(segments_by_name(fixed)) & set(segments_by_name(moving))
    if not both:
        raise none
    readers = masks_by_name(fixed, names=both), masks_by_name(moving, node, both)

    def read() -> dict[str, tuple[Volume, Volume]]:
        first, second = (reader() for reader in readers)
        found = {name: (first[name], second[name]) for name in first if name in second}
        if not found:
            raise none
        return found

    return read
