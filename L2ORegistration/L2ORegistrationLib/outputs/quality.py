"""Quality assurance after AAPM's TG-132 (Brock et al., Med. Phys. 44, 2017, table III): five rows.

Each says what is tolerated, what was measured and whether it could be measured at all. No value of
a similarity measure is among them: the report says that none of these tells an error in mm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Volume
from ..core.measures import jacobian_determinant, summarise, target_registration_error
from .labels import warp_labels
from .points import is_inverse

TRE_MEAN_MM, TRE_MAX_MM = 2.0, 5.0
AGREEMENT_MM = 3.0  # mean distance to agreement: 2-3 mm
DICE = 0.8  # 0.80-0.90
CONSISTENCY_MM = 3.0  # the largest side of a voxel: 2-3 mm


@dataclass(frozen=True)
class Row:
    """One line of the table: passed is None where nothing could be measured."""

    name: str
    where: str
    tolerance: str
    value: str
    passed: bool | None
    measures: dict[str, float]

    @property
    def verdict(self) -> str:
        """What to print: within, outside or not measured."""
        return {True: "within", False: "outside", None: "not measured"}[self.passed]


def assess(
    field: DisplacementField,
    pairs: tuple[np.ndarray, np.ndarray] | None = None,
    structures: Mapping[str, tuple[Volume, Volume]] | None = None,
    masks: Mapping[str, Volume] | None = None,
    backward: DisplacementField | None = None,
) -> list[Row]:
    """TG-132's rows for a field; LPS mm.

    pairs: landmarks in fixed and moving, (N, 3) each; structures: by name, the mask in fixed and
    the mask in moving; masks: more structures of the fixed scan, such as the lungs, where the
    Jacobian and the consistency are looked at; backward: an independent registration of fixed to
    moving's place (moving point -> fixed point): the inverse of the field would always agree.
    Raises InputError for empty masks and structures that do not meet.
    """
    structures = dict(structures or {})
    inner = {**(masks or {}), **{name: fixed for name, (fixed, _) in structures.items()}}
    there = [(name, moving) for name, (_, moving) in structures.items()]
    for name, mask in (*inner.items(), *there):
        if not np.asarray(mask.array).any():
            raise InputError(f"The structure {name} is empty: draw it or leave it out.")
    return [
        _tre(field, pairs),
        *_structures(field, structures),
        *_jacobians(field, inner),
        *_consistency(field, backward, inner),
    ]


def _tre(field: DisplacementField, pairs) -> Row:
    name = "Target registration error"
    tolerance = f"mean {TRE_MEAN_MM:g} mm, maximum {TRE_MAX_MM:g} mm"
    if pairs is None:
        return Row(name, "landmarks", tolerance, "needs landmark pairs", None, {})
    found = summarise(target_registration_error(field, *pairs))
    count = len(pairs[0])
    value = f"mean {found['mean']:.2f} mm, maximum {found['max']:.2f} mm at {count} points"
    passed = found["mean"] <= TRE_MEAN_MM and found["max"] <= TRE_MAX_MM
    return Row(name, "landmarks", tolerance, value, passed, {**found, "points": count})


def _structures(field: DisplacementField, structures: dict) -> list[Row]:
    names = "Mean distance to agreement", "Dice coefficient"
    tolerances = f"{AGREEMENT_MM:g} mm", f"{DICE:.2f}"
    if not structures:
        need = "needs structures that both scans have"
        return [Row(n, "structures", t, need, None, {}) for n, t in zip(names, tolerances)]
    distances, overlaps = [], []
    for name, (fixed, moving) in structures.items():
        fixed = fixed.padded(_around(moving, field))
        label = Volume((np.asarray(moving.array) != 0).astype(np.uint8), moving.grid).to_image()
        moved = sitk.GetArrayFromImage(warp_labels(label, field, fixed.grid)) > 0
        here = np.asarray(fixed.array) != 0
        size = here.sum(), moved.sum()
        dice = 2 * float((here & moved).sum()) / float(sum(size))
        most = 2 * float(min(size)) / float(sum(size))
        mean, largest = _agreement(here, moved, fixed)
        value = f"{mean:.2f} mm (largest {largest:.1f} mm)"
        found = {"mean": mean, "max": largest}
        distances.append(Row(names[0], name, tolerances[0], value, mean <= AGREEMENT_MM, found))
        value = f"{dice:.3f} (at most {most:.3f} with these volumes)"
        found = {"dice": dice, "highest": most}
        overlaps.append(Row(names[1], name, tolerances[1], value, dice >= DICE, found))
    return distances + overlaps


def _around(mask: Volume, field: DisplacementField) -> np.ndarray:
    """Nodes of the field, LPS mm, around what a mask of moving is in fixed.

    Fixed's own mask may end where its structure does: what moving's has beyond it counts, too.
    """
    marked = mask.part(*mask.box())
    nodes = field.grid.points()
    step = 2 * max(field.grid.spacing) / min(mask.grid.spacing)  # voxels; cells may be stretched
    return nodes[marked.grid.contains(nodes + field.array, margin=step)]


def _agreement(here: np.ndarray, moved: np.ndarray, like: Volume) -> tuple[float, float]:
    """Mean and largest distance, mm, from each surface to the other one."""
    images = [Volume(a.astype(np.uint8), like.grid).to_image() for a in (here, moved)]
    rim = [1] * 3  # because what fills the grid has no surface within it
    images = [sitk.ConstantPad(image, rim, rim, 0) for image in images]
    # Squared distances are the filter's default.
    distances = (sitk.SignedMaurerDistanceMap(i, False, False, True) for i in images)
    maps = [np.abs(sitk.GetArrayFromImage(distance)) for distance in distances]
    surfaces = [sitk.GetArrayFromImage(sitk.BinaryContour(i)) > 0 for i in images]
    found = np.concatenate([maps[1][surfaces[0]], maps[0][surfaces[1]]])
    return float(found.mean()), float(found.max())


def _jacobians(field: DisplacementField, masks: dict) -> list[Row]:
    name, tolerance = "Jacobian determinant", "no negative value"
    if not masks:
        return [Row(name, "structures", tolerance, "needs a mask or structures", None, {})]
    jacobian = jacobian_determinant(field)
    rows = []
    for where, mask in masks.items():
        points = mask.marked_points(most=300_000)
        points = points[field.grid.contains(points)]
        if not len(points):
            need = "not measured: the field does not reach it"
            rows.append(Row(name, where, tolerance, need, None, {}))
            continue
        # At the structure's voxels, as a small one holds no node of the field, and at its nodes,
        # where a fold is that lies between voxels.
        at_nodes = jacobian.array[mask.sample(jacobian.grid.points(), order=0, outside=0.0) > 0]
        parts = [jacobian.sample(points), *([at_nodes] if at_nodes.size else [])]
        folded = max(float((part <= 0).mean()) for part in parts)
        values = np.concatenate(parts)
        found = {"min": float(values.min()), "max": float(values.max()), "folded": folded}
        value = f"{found['min']:.2f} to {found['max']:.2f}, {100 * folded:.2g} % not positive"
        rows.append(Row(name, where, tolerance, value, folded == 0, found))
    return rows


def _consistency(field: DisplacementField, backward, masks: dict) -> list[Row]:
    name, tolerance = "Consistency forward and backward", f"{CONSISTENCY_MM:g} mm"
    if backward is None or not masks:
        need = "needs a second registration, of exchanged scans, and a mask or structures"
        return [Row(name, "structures", tolerance, need, None, {})]
    if is_inverse(field, backward):
        need = "the inverse agrees in any case: needs a registration of exchanged scans"
        return [Row(name, where, tolerance, need, None, {}) for where in masks]
    rows = []
    for where, mask in masks.items():
        points = mask.marked_points(most=100_000)
        back = backward.transform_points(field.transform_points(points))
        found = summarise(np.linalg.norm(back - points, axis=1))
        value = f"mean {found['mean']:.2f} mm, 95 % {found['p95']:.2f} mm"
        value += f", maximum {found['max']:.2f} mm"
        rows.append(Row(name, where, tolerance, value, found["p95"] <= CONSISTENCY_MM, found))
    return rows
