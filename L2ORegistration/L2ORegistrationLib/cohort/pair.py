"""One pair of a cohort, from paths to a folder of results; this is what a worker runs.

Only paths and the numbers of one row travel between the scheduler and its workers.
"""

from __future__ import annotations

import json
import os
import traceback
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..core import mixed_up
from ..core.errors import InputError
from ..core.files import read_landmarks, read_volume
from ..core.geometry import Grid, Volume
from ..core.measures import landmarks_in_ras, opposite_direction, paired
from ..core.memory import forget_peak, peak_mb
from ..core.paths import atomic
from ..engine import packaged
from ..engine.catalogue import DEFAULT, METHODS
from ..outputs.direction import doubts_of_start
from ..outputs.record import Scan
from ..reporting.case import CaseFiles
from ..reporting.tables import LandmarkPairs, table
from .inputs import checksum, inputs_state
from .table import Row

if TYPE_CHECKING:
    from ..engine.registration import Registration
    from ..engine.result import Result

RECORD = "pair.json"  # written last: a folder that has it is complete
_STARTS = "starts.txt"  # run and process of each time that a worker began with this pair
_ERROR = "error.txt"
# All that a pair leaves, in the order in which it is deleted: without the transform it counts as
# not done, and the record is the last sign that the files are this program's.
_PRODUCTS = (
    "transform.h5",
    "transform.h5.json",
    "warped.nii.gz",
    "report.html",
    "overview.png",
    "before.png",
    "after.png",
    _ERROR,
    RECORD,
)
MOST_STARTS = 2
KILLED = (
    f"The worker was killed {MOST_STARTS} times while it registered this pair, probably because "
    "the memory ran out: use fewer workers or a coarser spacing."
)


def register_pair(row: Row, folder: str, settings: dict[str, Any], run: str) -> dict[str, Any]:
    """Register one pair, write everything into its folder and return its line of the results.

    settings: arguments of engine.registration.Registration; run: tells this run's starts from
    those of earlier ones. Whatever goes wrong becomes the line's reasons; nothing is raised.
    """
    home = Path(folder)
    there = all(inputs_state(row).values())  # a drive that is away takes no results with it
    try:
        _check_device(settings)
        home.mkdir(parents=True, exist_ok=True)
        if there:
            _clear(home, row)
        if starts(home, run) >= MOST_STARTS:
            return failed(row, KILLED)
        with open(home / _STARTS, "a", encoding="utf-8") as file:
            file.write(f"{run} {os.getpid()}\n")
    except InputError as error:
        return failed(row, str(error))
    except OSError as error:
        return failed(row, f"The folder {folder} cannot be written to ({error.strerror}).")
    final = there
    before, weights = inputs_state(row), _weights(settings)
    try:
        line = _registered(row, home, settings)
    except InputError as error:
        line = failed(row, str(error))
    except Exception as error:  # the other pairs go on, whatever it is
        line = failed(row, f"The registration failed ({type(error).__name__}: {error}).")
        with suppress(OSError):  # such as of a full disk, which may be the reason of it all
            (home / _ERROR).write_text(traceback.format_exc(), encoding="utf-8")
        final = False
    for role, path in row.inputs.items():
        with suppress(InputError):  # a missing file has none
            line[f"{role}_sha256"] = checksum(path)
    if final:
        with suppress(InputError):  # then it is done again the next time
            found = {"line": line, "settings": settings, "weights": weights, "inputs": before}
            _record(home, {**found, **_software()})
    with suppress(OSError):  # it counts in this run only, and the pair is done
        (home / _STARTS).unlink()
    return line


def check_settings(settings: dict[str, Any]) -> None:
    """Raise InputError for settings that no pair could be registered with, on any computer."""
    from ..engine.registration import Registration  # imports torch, which takes seconds

    array = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    tiny = Volume(array, Grid(array.shape, (1.0, 1.0, 1.0)))
    Registration(tiny, tiny, **{**settings, "device": "cpu"})


def _check_device(settings: dict[str, Any]) -> None:
    """Raise InputError where this computer has no such device: that is no fault of the pair."""
    device = settings.get("device", "auto")
    if device not in ("auto", "cpu"):  # which are there: no need to load torch for them
        from ..engine.devices import choose_device

        choose_device(device)


def finished(
    row: Row, folder: Path, settings: dict[str, Any], *, failed_too: bool = True
) -> dict[str, Any] | None:
    """The line of a pair that was done before with these inputs and settings, else None.

    Inputs are the same where size and time of their files are, or else their checksums; settings
    are, where they also lead to weights of the same checksum, whatever they are worked on with.
    failed_too: also of one that was refused, which would be refused again.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        line, software = record["line"], {key: record[key] for key in _software()}
        if _what_counts(record["settings"]) != _what_counts(settings) or software != _software():
            return None
        if not (line["transform"] or failed_too) or not _same_weights(record, settings):
            return None
        if any(not (folder.parent / line[key]).exists() for key in ("transform", "report")):
            return None
        if set(record["inputs"]) != set(row.inputs):
            return None
        now = inputs_state(row)
        for role, path in row.inputs.items():
            if record["inputs"][role] != now[role] and (
                now[role] is None or line[f"{role}_sha256"] != checksum(path)
            ):
                return None
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None
    return {**line, **row.inputs}  # the same files may have moved


def failed(row: Row, reason: str) -> dict[str, Any]:
    """The line of a pair without a result."""
    return {
        "name": row.name,
        "verdict": "failed",
        "reasons": reason,
        "transform": "",
        "report": "",
        "software": f"L2ORegistration {__version__}",
        **row.inputs,
    }


def starts(folder: Path, run: str) -> int:
    """How often a worker began with this pair in this run, and never came to an end."""
    try:
        return (folder / _STARTS).read_text(encoding="utf-8").split().count(run)
    except OSError:
        return 0


def _weights(settings: dict[str, Any]) -> dict[str, str | None]:
    """SHA-256 of the weights that these settings lead to, by role; None for missing ones."""
    method = METHODS.get(settings.get("method") or DEFAULT)
    start = METHODS.get(settings.get("start") or getattr(method, "start", ""))
    found = {}
    for role, usual in (("model", method), ("start_model", start)):
        if name := settings.get(role) or getattr(usual, "weights", ""):
            found[role] = _sum_of_weights(name)
    return found


def _same_weights(record: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether a pair's record was made with the weights that these settings now lead to."""
    if "weights" in record:
        return record["weights"] == _weights(settings)
    # Versions before did not say: packaged weights are the version's own, others may be new.
    given = (settings.get(role) for role in ("model", "start_model"))
    return not any(Path(name).suffix == ".pt" for name in given if name)


def _sum_of_weights(name: str | Path) -> str | None:
    path = packaged.weights_file(name).absolute()
    try:
        state = path.stat()
        return _known_sum(str(path), state.st_size, state.st_mtime_ns)
    except (OSError, ValueError):  # there is none, or it cannot be read
        return None


@lru_cache(maxsize=8)
def _known_sum(path: str, size: int, changed: int) -> str:
    """The checksum of a file of this size and time (ns), which thousands of pairs ask for."""
    return checksum(path)


def _clear(home: Path, row: Row) -> None:
    """Delete what an earlier attempt left in a pair's folder, so that it is not taken for the next.

    Only files of the names that a pair writes, if there is a sign that one was registered here, and
    none that is an input now. Raises InputError where one cannot be deleted.
    """
    if not any((home / sign).exists() for sign in (RECORD, _STARTS, _ERROR)):
        return
    inputs = {Path(path).resolve() for path in row.inputs.values()}
    for path in (home / name for name in _PRODUCTS):
        if path.resolve() not in inputs:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(
                    f"{path}, which an earlier registration left, cannot be deleted "
                    f"({error.strerror}): close programs that use it."
                ) from error


def _software() -> dict[str, str]:
    return {"version": __version__}


def _record(home: Path, content: dict[str, Any]) -> None:
    with atomic(home / RECORD) as temporary:
        text = json.dumps(content, indent=1, default=os.fspath)
        temporary.write_text(text, encoding="utf-8")


def _what_counts(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a result depends on, as a record gives them back: tuples as lists."""
    counting = {k: v for k, v in settings.items() if k not in ("device", "threads")}
    return json.loads(json.dumps(counting, default=os.fspath))


def _registered(row: Row, home: Path, settings: dict[str, Any]) -> dict[str, Any]:
    for role in ("fixed", "moving"):
        if not getattr(row, role):
            raise InputError(f"The row names no {role} image: fill in its path.")
    fixed, moving = read_volume(row.fixed), read_volume(row.moving)
    landmarks, left_out = _landmarks(row, fixed, moving)

    from ..engine.registration import Registration  # imports torch, which takes seconds

    forget_peak()
    registration = Registration(
        fixed,
        moving,
        fixed_mask=row.fixed_mask or None,
        moving_mask=row.moving_mask or None,
        initial_transform=row.initial_transform or None,
        **settings,
    )
    for _ in registration:
        pass
    result = registration.result()
    memory = peak_mb()
    doubts = _doubts(row, registration, result, landmarks)
    files = CaseFiles(home / "transform.h5", home / "warped.nii.gz", report=home)
    name = result.provenance["method"]
    files.write(
        {name: result},
        landmarks,
        (row.fixed, row.moving),
        title=row.name,
        details=row.inputs,
        warnings=tuple(doubts),
    )
    _thumbnails(home, result)
    return {
        "name": row.name,
        "verdict": result.verdict,
        "reasons": " ".join((*result.reasons, *doubts, left_out)).strip(),
        **_measures(result, landmarks),
        "seconds": round(result.seconds, 2),
        "memory_mb": "" if memory is None else round(memory),
        "software": result.provenance["software"],
        "device": result.provenance["device"],
        "transform": f"{row.name}/transform.h5",
        "report": f"{row.name}/report.html",
        **row.inputs,
    }


def _landmarks(row: Row, fixed: Volume, moving: Volume) -> tuple[LandmarkPairs | None, str]:
    """The pairs of landmarks, and a sentence about those without a partner."""
    if not (row.fixed_landmarks or row.moving_landmarks):
        return None, ""
    if not (row.fixed_landmarks and row.moving_landmarks):
        raise InputError("The row names landmarks in one image only: add their partners.")
    grids = fixed.grid, moving.grid
    read = map(read_landmarks, (row.fixed_landmarks, row.moving_landmarks), grids)
    return paired(*read, *grids)


def _doubts(
    row: Row, registration: Registration, result: Result, landmarks: LandmarkPairs | None
) -> list[str]:
    """What looks mixed up in what the row gives, a sentence each."""
    scans = result.fixed, result.moving
    masks = row.fixed_mask and result.fixed_mask, row.moving_mask and result.moving_mask
    found = mixed_up.doubts(*scans, *(mask or None for mask in masks))
    if row.initial_transform:
        paths = row.fixed, row.moving
        told = (Scan.of(scan.grid, path) for scan, path in zip(scans, paths))
        found += doubts_of_start(Path(row.initial_transform), *told)
    if landmarks is not None:
        if registration.given is not None:
            found.append(opposite_direction(registration.given, *landmarks, "The start"))
        found.append(opposite_direction(result.field, *landmarks))
        found.append(landmarks_in_ras(result.field, *landmarks))
    return [sentence for sentence in found if sentence]


def _measures(result: Result, landmarks: LandmarkPairs | None) -> dict[str, float]:
    rows = table({"result": result}, landmarks)
    jacobian = rows["result"]["jacobian"]
    found = {
        "dissimilarity_before": round(result.steps[0].dissimilarity, 5),
        "dissimilarity": round(result.steps[result.best].dissimilarity, 5),
        "folding_percent": round(100 * jacobian["folding"], 4),
        "min_jacobian": round(jacobian["min"], 4),
        "sdlogj": round(jacobian["sdlogj"], 4),
        "sdlogj_learn2reg": round(jacobian["sdlogj_learn2reg"], 4),
    }
    if landmarks is not None:
        found["error_before_mm"] = round(rows["Initial"]["tre"]["mean"], 3)
        for key in ("mean", "p95", "max"):
            name = "error_mm" if key == "mean" else f"error_{key}_mm"
            found[name] = round(rows["result"]["tre"][key], 3)
    return found


def _thumbnails(home: Path, result: Result) -> None:
    """Two small overlays for the page of all pairs."""
    from ..reporting import pictures  # matplotlib takes a second to import

    for state, content in zip(("before", "after"), pictures.thumbnails(result), strict=True):
        with atomic(home / f"{state}.png") as temporary:
            temporary.write_bytes(content)
