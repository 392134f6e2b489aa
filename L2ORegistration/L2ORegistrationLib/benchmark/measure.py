"""One registration in a process of its own: what it took, and how good it is.

Run as ``python -m L2ORegistrationLib.benchmark.measure JOB.json``; the parent writes the job and
the case's images, this process writes the result beside them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Volume
from ..core.measures import jacobian_summary, summarise, target_registration_error
from ..core.memory import children_mb, forget_peak, peak_mb, taken_mb
from ..core.paths import atomic
from .methods import METHODS
from .scan import Scan

PLEURA_MM = 10.0


def measure(scan: Scan, name: str, options: dict[str, Any], born: float) -> dict[str, Any]:
    """Run the method on the scan and measure it.

    born: time.time() when the process was asked for.
    """
    method = METHODS[name]
    method.prepare()
    if options.get("warm_up"):
        method.run(scan, options)
    before = taken_mb()
    forget_peak()
    begin = time.perf_counter()
    outcome = method.run(scan, options)
    result: dict[str, Any] = {
        "seconds": time.perf_counter() - begin,
        "seconds_process": time.time() - born,
        "peak_gb": max(peak_mb() or 0.0, children_mb() or 0.0) / 1024 or None,
        "gpu_gb": _gpu_gb(),
        "provenance": outcome.provenance,
    }
    result["added_gb"] = None if before is None else result["peak_gb"] - before / 1024
    result["jacobian"] = jacobian_summary(outcome.field.resampled(scan.lattice), scan.region)
    if scan.fixed_points is not None:
        result |= _errors(scan, outcome.field)
    if scan.labels is not None:
        result["dice"] = label_dice(*scan.labels, outcome.field)
    result["steps"] = [_step(scan, step) for step in outcome.steps]
    return result


def _errors(scan: Scan, field: DisplacementField) -> dict[str, list]:
    """Errors (mm) at each point, snapped to moving voxels as well; which are near the pleura."""
    pair = scan.fixed_points, scan.moving_points
    return {
        "tre": target_registration_error(field, *pair).tolist(),
        "snapped": target_registration_error(field, *pair, snap_to=scan.moving.grid).tolist(),
        "near": near_pleura(scan.fixed_points, scan.region).tolist(),
    }


def near_pleura(points: np.ndarray, lungs: Volume) -> np.ndarray:
    """Which points (N, 3), LPS mm, lie outside the lungs or within PLEURA_MM of their surface."""
    from ..engine.start.alignment import distance_map

    return distance_map(lungs, spacing=1.5).sample(points) >= -PLEURA_MM


def label_dice(fixed: Volume, moving: Volume, field: DisplacementField) -> dict[str, float]:
    """The Dice coefficient of each label that both have, the moving ones brought to the fixed grid.

    What only one scan has no registration can find.
    """
    from ..outputs.labels import warp_labels

    here = np.rint(fixed.array).astype(np.int32)
    there = Volume(np.rint(moving.array).astype(np.int32), moving.grid)
    found = {}
    try:
        moved = sitk.GetArrayFromImage(warp_labels(there.to_image(), field, fixed.grid))
    except InputError:  # none of them arrives
        moved = np.zeros_like(here)
    for value in np.intersect1d(here, there.array):
        if value > 0:
            size = (here == value).sum() + (moved == value).sum()
            both = ((here == value) & (moved == value)).sum()
            found[str(value)] = 2 * float(both) / float(size) if size else 0.0
    return found


def _step(scan: Scan, step) -> dict[str, Any]:
    row = {
        "index": step.index,
        "stage": step.stage,
        "level": step.level,
        "dissimilarity": step.dissimilarity,
        "seconds": step.seconds,
    }
    if scan.fixed_points is not None:
        errors = target_registration_error(step.field, scan.fixed_points, scan.moving_points)
        row |= {key: summarise(errors)[key] for key in ("mean", "median", "p95")}
    return row


def _gpu_gb() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return torch.cuda.max_memory_allocated() / 2**30


def main(path: str) -> None:
    """Do the job in this file and write result.json beside it."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        result = measure(Scan.load(Path(job["scan"])), job["method"], job["options"], job["born"])
    except InputError as error:
        result = {"error": str(error)}
    with atomic(job["result"]) as temporary:
        temporary.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
