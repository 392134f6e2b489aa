"""Every method on every case, each in a fresh process, one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InputError
from ..core.files import write_volume
from ..datasets.cases import Case

_ROOT = Path(__file__).parents[2]  # where the package is, installed or not
_SIDES = ("fixed", "moving")


@dataclass(frozen=True)
class Measurement:
    """What one method did on one case; result: see `measure.measure`, or {"error": sentence}.

    points: what the errors were measured at, "landmarks", "keypoints" or "" (nothing).
    """

    dataset: str
    case: str
    method: str
    points: str
    result: dict[str, Any]


def run(
    datasets: dict[str, list[Case]], methods: list[str], options: dict[str, Any]
) -> Iterator[Measurement]:
    """Measure every method on every case; datasets: cases by the name of their column.

    options: model, iterations, device and threads. A case that cannot be read, or a method that
    fails, yields a Measurement with an error, and the others go on.
    """
    for dataset, cases in datasets.items():
        for case in cases:
            points = "landmarks" if case.landmarks else "keypoints" if case.keypoints else ""
            with tempfile.TemporaryDirectory() as folder:
                try:
                    write_scan(case, Path(folder))
                    problem = None
                except InputError as error:
                    problem = {"error": str(error)}
                for method in methods:
                    result = problem or _measured(Path(folder), method, options)
                    yield Measurement(dataset, case.name, method, points, result)


def write_scan(case: Case, folder: Path) -> None:
    """The case's images, masks and points as plain files, quick to read."""
    for side in _SIDES:
        write_volume(getattr(case, side)(), folder / f"{side}.nrrd", compressed=False)
        mask = getattr(case, f"{side}_mask")
        if mask is not None:
            write_volume(mask(), folder / f"{side}_mask.nrrd", compressed=False)
    for side, labels in zip(_SIDES, case.labels or ()):
        write_volume(labels(), folder / f"{side}_labels.nrrd", compressed=False)
    points = case.landmarks or case.keypoints
    if points is not None:
        np.save(folder / "points.npy", np.stack(points))


def _measured(folder: Path, method: str, options: dict[str, Any]) -> dict[str, Any]:
    job, result = folder / "job.json", folder / "result.json"
    result.unlink(missing_ok=True)
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(
        (str(_ROOT), *filter(None, [environment.get("PYTHONPATH")]))
    )
    if options.get("threads"):
        for variable in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
            environment[variable] = str(options["threads"])
    content = {
        "scan": str(folder),
        "result": str(result),
        "method": method,
        "options": options,
        "born": time.time(),
    }
    job.write_text(json.dumps(content), encoding="utf-8")
    command = [sys.executable, "-m", "L2ORegistrationLib.benchmark.measure", str(job)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace"
    )
    if result.exists():
        return json.loads(result.read_text("utf-8"))
    if done.returncode == -9:  # on Linux the system, short of memory; it had no time to say why
        return {"error": "The process was killed, probably because the memory ran out."}
    lines = done.stderr.strip().splitlines()
    reason = lines[-1] if lines else f"it ended with code {done.returncode}"
    return {"error": f"The process failed: {reason}"}
