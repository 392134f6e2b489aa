"""From single measurements to the paper's table, and all of them as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..core.files import atomic
from ..core.measures import summarise
from ..reporting.tables import write_csv
from .methods import METHODS
from .run import Measurement

# Column of the table -> (key of a case's row, format, factor)
COLUMNS = {
    "TRE mean": ("tre_mean", ".2f", 1),
    "SD": ("tre_sd", ".2f", 1),
    "median": ("tre_median", ".2f", 1),
    "95 %": ("tre_p95", ".2f", 1),
    "snapped": ("snapped_mean", ".2f", 1),
    "near pleura": ("pleura_mean", ".2f", 1),
    "label Dice": ("dice_mean", ".3f", 1),
    "SDlogJ": ("sdlogj", ".3f", 1),
    "SDlogJ (Learn2Reg)": ("sdlogj_learn2reg", ".3f", 1),
    "folding %": ("folding", ".3f", 100),
    "seconds": ("seconds", ".1f", 1),
    "GB": ("peak_gb", ".2f", 1),
}


def case_row(run: Measurement) -> dict:
    """All that was measured of one run, flat; without what could not be measured."""
    result = run.result
    row = {**_of(run), "points": run.points, "error": result.get("error", "")}
    if "tre" in result:
        row |= {f"tre_{key}": value for key, value in summarise(result["tre"]).items()}
        snapped = summarise(result["snapped"])
        row |= {"snapped_mean": snapped["mean"], "snapped_sd": snapped["sd"]}
        near = np.asarray(result["tre"])[np.asarray(result["near"], bool)]
        row |= {"points_count": len(result["tre"]), "pleura_count": len(near)}
        if len(near):
            row["pleura_mean"] = float(near.mean())
    if result.get("dice"):
        row["dice_mean"] = float(np.mean(list(result["dice"].values())))
        row |= {f"dice_{label}": value for label, value in result["dice"].items()}
    row |= result.get("jacobian", {})
    for key in ("seconds", "seconds_process", "peak_gb", "added_gb", "gpu_gb"):
        if result.get(key) is not None:
            row[key] = result[key]
    provenance = result.get("provenance", {})
    named = (provenance.get(key, "") for key in ("software", "model"))
    row["software"] = " ".join(str(name) for name in named if name)
    return row


def point_rows(run: Measurement) -> list[dict]:
    """The error (mm) at each landmark, numbered from 0 as in its file: a wrong one shows itself."""
    columns = ("tre", "snapped", "near")
    errors = zip(*(run.result.get(key, ()) for key in columns), strict=True)
    return [
        {**_of(run), "point": i, "tre": tre, "snapped": snapped, "near_pleura": int(near)}
        for i, (tre, snapped, near) in enumerate(errors)
    ]


def summary(runs: list[Measurement]) -> dict[str, dict[str, dict[str, float]]]:
    """{data set: {method: measures}}: the average over the cases that the method registered.

    Every case weighs the same. The SD is that of all landmark errors about this average. "cases"
    counts those registered, "failed" the others.
    """
    found: dict = {}
    for run in runs:
        rows = found.setdefault(run.dataset, {}).setdefault(run.method, [])
        rows.append(case_row(run))
    return {
        dataset: {method: _average(rows) for method, rows in methods.items()}
        for dataset, methods in found.items()
    }


def _average(rows: list[dict]) -> dict[str, float]:
    good = [row for row in rows if not row["error"]]
    result: dict[str, float] = {"cases": len(good), "failed": len(rows) - len(good)}
    for key, _, _ in COLUMNS.values():
        values = [row[key] for row in good if key in row]
        if values:
            result[key] = float(np.mean(values))
    if "tre_mean" in result:
        squares = [r["tre_sd"] ** 2 + r["tre_mean"] ** 2 for r in good if "tre_mean" in r]
        result["tre_sd"] = math.sqrt(max(0.0, float(np.mean(squares)) - result["tre_mean"] ** 2))
    return result


def stages(runs: list[Measurement]) -> dict[str, dict[str, dict[str, float]]]:
    """{data set: {method: {stage: seconds}}}: where the time goes, the average over the cases.

    Of methods with steps. Preparation: masks, affine, resampling, the first features; every other
    stage includes the features that it needs.
    """
    cases: dict = {}
    for run in runs:
        if parts := _seconds_by_stage(run):
            cases.setdefault(run.dataset, {}).setdefault(run.method, []).append(parts)
    return {
        dataset: {method: _averages(parts) for method, parts in methods.items()}
        for dataset, methods in cases.items()
    }


def _seconds_by_stage(run: Measurement) -> dict[str, float]:
    """{stage: seconds} of one registration, in order; empty without steps."""
    found: dict[str, float] = {}
    before = 0.0
    for step in run.result.get("steps", ()):
        name = f"{step['stage']}, level {step['level'] + 1}"
        name = {"initial": "preparation", "start": "start"}.get(step["stage"], name)
        found[name] = found.get(name, 0.0) + step["seconds"] - before
        before = step["seconds"]
    return found


def _averages(cases: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each entry; a case without it counts as 0."""
    names = dict.fromkeys(name for case in cases for name in case)
    return {name: float(np.mean([case.get(name, 0.0) for case in cases])) for name in names}


def measured(methods: dict[str, dict[str, float]]) -> list[str]:
    """Those of COLUMNS that hold a number for any of {method: measures}."""
    keys = {key for measures in methods.values() for key in measures}
    return [column for column, (key, _, _) in COLUMNS.items() if key in keys]


def cells(measures: dict[str, float], columns: Iterable[str] = COLUMNS) -> list[str]:
    """One text for each of these COLUMNS; empty where nothing was measured."""
    formats = (COLUMNS[column] for column in columns)
    return [
        format(factor * measures[key], style) if key in measures else ""
        for key, style, factor in formats
    ]


def title(method: str, measures: dict[str, float]) -> str:
    """The method's name, with how many cases it failed on."""
    failed = f" ({measures['failed']} failed)" if measures["failed"] else ""
    return METHODS[method].title + failed


def markdown(runs: list[Measurement]) -> str:
    """The paper's table (mean and SD of the TRE in mm), then each data set in detail."""
    found, seconds = summary(runs), stages(runs)
    methods = [m for m in METHODS if any(m in rows for rows in found.values())]
    lines = ["| TRE, mm | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for method in methods:
        row = [_mean_sd(rows.get(method, {})) for rows in found.values()]
        lines.append(f"| {METHODS[method].title} | " + " | ".join(row) + " |")
    for dataset, rows in found.items():
        count = max(measures["cases"] + measures["failed"] for measures in rows.values())
        lines += ["", f"## {dataset} ({count} case{'s' if count > 1 else ''})"]
        lines += [*_points([run for run in runs if run.dataset == dataset]), ""]
        columns = measured(rows)
        lines += ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
        lines += [
            f"| {title(method, rows[method])} | " + " | ".join(cells(rows[method], columns)) + " |"
            for method in methods
            if method in rows
        ]
        lines += _by_case([run for run in runs if run.dataset == dataset])
        lines += _lines("seconds of", seconds.get(dataset, {}))
    return "\n".join(lines) + "\n"


def _by_case(runs: list[Measurement]) -> list[str]:
    """Mean TRE of each case, where there are several: a single hard one can drive the average."""
    rows: dict = {}
    for run in runs:
        row = case_row(run)
        if "tre_mean" in row:
            rows.setdefault(run.method, {})[run.case] = row["tre_mean"]
    return _lines("TRE mean of", rows) if len({run.case for run in runs}) > 1 else []


def _lines(title: str, rows: dict[str, dict[str, float]]) -> list[str]:
    """A table of {method: {column: value}}, after an empty line; nothing where nothing is given."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    if not names:
        return []
    lines = ["", f"| {title} | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for method, row in rows.items():
        texts = (f"{row[name]:.2f}" if name in row else "" for name in names)
        lines.append(f"| {METHODS[method].title} | " + " | ".join(texts) + " |")
    return lines


def _mean_sd(measures: dict[str, float]) -> str:
    failed = f" ({measures['failed']} failed)" if measures.get("failed") else ""
    if "tre_mean" not in measures:
        return failed.strip()
    return f"{measures['tre_mean']:.2f} ± {measures['tre_sd']:.2f}{failed}"


def _points(runs: list[Measurement]) -> list[str]:
    """A sentence where errors are not, or not all, those at landmarks; else nothing."""
    kinds = {run.case: run.points for run in runs if run.points}
    found = sum(kind == "keypoints" for kind in kinds.values())
    if not found:
        return []
    cases = "all" if found == len(kinds) else f"{found} of {len(kinds)}"
    return [
        "",
        f"Errors at keypoints that were found automatically, not by experts, in {cases} cases.",
    ]


def write(runs: list[Measurement], folder: Path) -> None:
    """cases.csv, points.csv, iterations.csv and table.md, replaced as a whole."""
    _write_csv([case_row(run) for run in runs], folder / "cases.csv")
    _write_csv([row for run in runs for row in point_rows(run)], folder / "points.csv")
    steps = [{**_of(run), **_named(step)} for run in runs for step in run.result.get("steps", ())]
    _write_csv(steps, folder / "iterations.csv")
    with atomic(folder / "table.md") as temporary:
        temporary.write_text(markdown(runs), encoding="utf-8")


def _of(run: Measurement) -> dict:
    return {"dataset": run.dataset, "case": run.case, "method": run.method}


def _named(step: dict) -> dict:
    return {f"tre_{k}" if k in ("mean", "median", "p95") else k: v for k, v in step.items()}


def _write_csv(rows: list[dict], path: Path) -> None:
    if rows:
        write_csv(rows, path)
    else:
        path.unlink(missing_ok=True)  # that of an earlier run tells of other cases
