"""A registered breath on disk: transforms, fields, images, trajectories, tables and a report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from string import Template

import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..core.errors import InputError
from ..core.files import write_image, write_transform, write_volume
from ..core.geometry import Volume
from ..core.hounsfield import stored_offset
from ..core.landmarks import Landmarks
from ..core.memory import ran_out
from ..core.paths import at_home, atomic, check_writable
from ..engine.verdict import GOOD, Verdict
from ..outputs.record import Record, Scan, beside
from ..reporting import page, pictures
from ..reporting.tables import write_csv
from . import motion
from .registration import SequenceResult

_MOVIE_PIXELS = 260
_MOVIE_WIDTH = 760  # pixels at least, of both together: coarse phases are enlarged
_MOVIE_MS = 180  # of a frame
_DRAWN = 12  # trajectories in the plot, at most
_WINDOW = -1000.0, 200.0  # HU shown as black and white

_STYLE = "img { width: auto; max-width: 100%; }"

_BODY = Template("""<p>$summary</p>
$warnings
<h2>The breath, and the same with its motion compensated</h2>
<p class="note">Coronal. Left: the phases as they are; right: each brought to the reference. Lungs
that still move on the right are not registered well there.</p>
<img alt="Moving picture of the phases before and after" src="$movie">
<h2>Mean of all phases</h2>
<img alt="Plain and motion-compensated mean, amplitude of the motion" src="$means">
<p>Sharpness (root mean square of the gradient in and around the lungs): plain $plain,
motion-compensated <b>$compensated</b> HU/mm.</p>
<h2>Closed loops</h2>
<p class="note">Distances in the lungs, mm. Forward against backward: between the two fields of the
phase where both ways round the cycle meet. There and round the cycle back: from where a point ends
that goes to this phase and returns with a registration of exchanged images.</p>
$loops
<h2>Phases</h2>
$phases
$trajectories
<h2>Provenance</h2>
$provenance""")


def write_sequence(
    result: SequenceResult,
    names: Sequence[str],
    folder: str | Path,
    *,
    landmarks: Landmarks | None = None,
    contour: Volume | None = None,
    images: bool = True,
    title: str = "4DCT",
    paths: Sequence[Path | None] | None = None,
) -> list[Path]:
    """Write everything that a registered breath gives to an existing folder; returns the paths.

    names: of the phases; landmarks: in the reference, LPS mm; contour: a mask in the reference,
    whose centre is followed; images: also each phase warped to the reference; paths: where each
    phase was read from, for the records, as `phases.Phase` says it.
    Files: transform-NAME.h5 (reference point -> point in the phase) and its record, fields.nrrd (x,
    y, z, phase; vectors in LPS mm), warped-NAME.nii.gz, mean.nii.gz, plain-mean.nii.gz,
    amplitude.nii.gz (mm), phases.csv, trajectories.csv, loops.json, report.html.
    Raises InputError when the folder cannot be written to, and when memory runs out for the images
    and the report; all else is written before, so that it is there even if the process is killed.
    """
    folder = at_home(folder)
    check_writable(folder)
    earlier = _of_earlier_run(folder)
    written = []

    def path(name: str) -> Path:
        written.append(folder / name)
        return written[-1]

    scans = [Scan.of(result.grid, place) for place in paths or [None] * len(names)]
    fixed = Scan(result.grid) if result.reference is None else scans[result.reference]
    for index, field in result.fields.items():
        transform = path(f"transform-{names[index]}.h5")
        write_transform(field, transform)
        verdict = result.verdicts.get(index, Verdict(GOOD))
        told = verdict.level, verdict.reasons, fixed, scans[index]
        Record(*told, provenance=result.provenance).write(transform)
    _write_fields(result, path("fields.nrrd"))
    with atomic(path("loops.json")) as temporary:
        temporary.write_text(json.dumps(loop_summary(result), indent=1), encoding="utf-8")
    followed = _followed(result, landmarks, contour)
    if followed:
        write_csv(_trajectory_rows(followed, result, names), path("trajectories.csv"))
    # Before the table that names them gives way to that of this run.
    for file in set(earlier) - {*written, *map(beside, written)}:
        with suppress(OSError):  # somebody has it open: the table does not name it
            file.unlink()
    try:
        rows = phase_table(result, names)
        write_csv(rows, path("phases.csv"))
        if images:
            for index, volume in motion.warped(result):
                write_volume(volume, path(f"warped-{names[index]}.nii.gz"))
        plain, mean = motion.means(result)
        amplitude = motion.amplitude(result)
        write_volume(mean, path("mean.nii.gz"))
        write_volume(plain, path("plain-mean.nii.gz"))
        write_volume(amplitude, path("amplitude.nii.gz"))
        report = _report(result, names, title, rows, followed, plain, mean, amplitude)
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise InputError(
            f"The memory ran out for images and report. All transforms are written, in {folder}."
        ) from error
    with atomic(path("report.html")) as temporary:
        temporary.write_text(report, encoding="utf-8")
    return written


def _of_earlier_run(folder: Path) -> list[Path]:
    """What an earlier run may have left of the phases in its table, so that two runs don't mix."""
    try:
        with open(folder / "phases.csv", newline="", encoding="utf-8") as file:
            names = [row["phase"] for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, csv.Error):
        return []
    of_phases = [f"transform-{name}.h5{end}" for name in names for end in ("", ".json")]
    of_phases += [f"warped-{name}.nii.gz" for name in names]
    return [folder / name for name in ("trajectories.csv", *of_phases) if Path(name).name == name]


def phase_table(result: SequenceResult, names: Sequence[str]) -> list[dict]:
    """A row a phase, in the order of the breath: lung volume in ml, its rank (1: the largest),
    the mean and largest displacement from the reference in the lungs, mm, the verdict and its
    reasons."""
    millilitres = result.lung_volumes()
    ranks = np.empty(len(millilitres), int)
    ranks[np.argsort(-millilitres, kind="stable")] = np.arange(1, len(millilitres) + 1)
    points = motion.reference_mask(result).marked_points(most=20_000)
    rows = []
    for index, name in enumerate(names):
        row = {"phase": name, "lung_ml": round(float(millilitres[index]), 1)}
        row["rank_by_volume"] = int(ranks[index])
        if index in result.fields:
            moved = np.linalg.norm(result.fields[index].sample(points), axis=1)
            row["mean_motion_mm"] = round(float(moved.mean()), 3)
            row["max_motion_mm"] = round(float(moved.max()), 3)
        if index in result.verdicts:
            verdict = result.verdicts[index]
            row |= {"verdict": verdict.level, "reasons": " ".join(verdict.reasons)}
        rows.append(row)
    return rows


def doubts(result: SequenceResult, names: Sequence[str]) -> list[str]:
    """A sentence for each phase whose verdict is not good: which, what it is and why.

    And one where all leads from a phase, though the mean position was asked for.
    """
    said = []
    if _lacks_mean(result):
        said.append(
            "Stopped before the mean position was known: all is of phase "
            f"{names[result.reference]} instead, and no points are followed."
        )
    return said + [
        f"Phase {names[index]}: {verdict.level}. {' '.join(verdict.reasons)}"
        for index, verdict in result.verdicts.items()
        if verdict.level != GOOD
    ]


def loop_summary(result: SequenceResult) -> dict[str, dict[str, float]]:
    """mean, median, p95 and max, in mm, of each closed loop."""
    return {
        name: {
            "mean": round(float(distances.mean()), 4),
            "median": round(float(np.median(distances)), 4),
            "p95": round(float(np.percentile(distances, 95)), 4),
            "max": round(float(distances.max()), 4),
        }
        for name, distances in result.loops.items()
    }


def _lacks_mean(result: SequenceResult) -> bool:
    """Whether the reference is a phase in place of the mean, where points may have been drawn."""
    return result.mean_wanted and result.reference is not None


def _followed(result, landmarks, contour) -> dict[str, np.ndarray]:
    """Positions (phases, 3) by label."""
    found = {}
    if _lacks_mean(result):
        return found
    if landmarks is not None:
        paths = motion.trajectories(result, landmarks.points)
        found |= {label: paths[:, k] for k, label in enumerate(landmarks.labels)}
    if contour is not None:
        points = motion.contour_points(contour)
        found["contour centre"] = motion.trajectories(result, points).mean(axis=1)
    return found


def _trajectory_rows(followed, result, names) -> list[dict]:
    return [
        {
            "label": label,
            "phase": names[index],
            **{axis: round(float(v), 4) for axis, v in zip("xyz", position, strict=True)},
        }
        for label, positions in followed.items()
        for index, position in zip(result.fields, positions, strict=True)
    ]


def _write_fields(result: SequenceResult, path: Path) -> None:
    """One image of four dimensions, the last one the phase."""
    images = [sitk.Cast(f.to_image(), sitk.sitkVectorFloat32) for f in result.fields.values()]
    with atomic(path) as temporary:
        write_image(sitk.JoinSeries(images), temporary, path)


def _report(result, names, title, rows, followed, plain, mean, amplitude) -> str:
    mask = motion.reference_mask(result)
    plane = pictures.lung_planes(mask)[1]
    loops = loop_summary(result)
    warnings = doubts(result, names)
    if result.cancelled:
        warnings.append("The run was stopped: only some phases are registered, without loops.")
    left_out = len(result.fields) - len(result.trusted)
    if left_out:
        warnings.append(f"Means, amplitude and sharpness are without the {left_out} that failed.")
    closing = max((values["mean"] for values in loops.values()), default=None)
    summary = [f"{len(result.fields)} phases in {result.seconds:.0f} s, verdict {result.verdict}"]
    if closing is not None:
        summary.append(f"closed loop {closing:.2f} mm")
        if closing > max(result.grid.spacing) / 2:
            warnings.append(
                f"A loop misses by {closing:.1f} mm on average, more than half a voxel: look at "
                "the moving picture before you trust the motion."
            )
    drawn = ""
    if followed:
        picture = pictures.png(_trajectory_figure(followed))
        drawn = f'<h2>Trajectories</h2><img alt="Trajectories" src="{page.embedded(picture)}">'
    body = _BODY.substitute(
        summary=escape(", ".join(summary)) + ".",
        warnings=page.warned(warnings),
        movie=page.embedded(_movie(result, names, plane), "gif"),
        means=page.embedded(pictures.png(_means_figure(plain, mean, amplitude, mask, plane))),
        plain=f"{motion.sharpness(plain, mask):.2f}",
        compensated=f"{motion.sharpness(mean, mask):.2f}",
        loops=_html_table([{"loop": name, **values} for name, values in loops.items()]),
        phases=_html_table(rows),
        trajectories=drawn,
        provenance=page.facts(result.provenance),
    )
    return page.page(title, body, _STYLE)


def _movie(result: SequenceResult, names: Sequence[str], plane: pictures.Plane) -> bytes:
    """A .gif of the phases on a plane, named: as they are, and brought to the reference."""
    from PIL import Image, ImageDraw  # come with matplotlib

    stride = max(1, -(-max(plane.points.shape[:2]) // _MOVIE_PIXELS))
    points = plane.points[::stride, ::stride]
    frames = []
    for index, field in result.fields.items():
        phase = result.phases[index]
        pair = [_shades(phase, where) for where in (points, field.transform_points(points))]
        gap = np.ones((points.shape[0], 4))
        row = np.concatenate([pair[0], gap, pair[1]], axis=1)
        frame = Image.fromarray(np.uint8(255 * row))
        larger = max(1, -(-_MOVIE_WIDTH // frame.width))
        size = frame.width * larger, frame.height * larger
        frame = frame.resize(size, Image.Resampling.BICUBIC)
        label = {"fill": 255, "stroke_width": 2, "stroke_fill": 0}
        ImageDraw.Draw(frame).text((8, 6), names[index], **label)
        frames.append(frame)
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=_MOVIE_MS, loop=0
    )
    return buffer.getvalue()


def _shades(volume: Volume, points: np.ndarray) -> np.ndarray:
    """Values at points as shades of the window, 0 (black) to 1 (white)."""
    low, high = np.add(_WINDOW, stored_offset(volume.array))
    return np.clip((volume.sample(points) - low) / (high - low), 0, 1)


def _means_figure(plain, mean, amplitude, mask, plane) -> Figure:
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, volume, title in zip(
        axes, (plain, mean), ("plain mean", "motion-compensated mean"), strict=False
    ):
        axis.imshow(_shades(volume, plane.points), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=10)
    axes[2].imshow(_shades(mean, plane.points), cmap="gray", vmin=0, vmax=1)
    outside = mask.sample(plane.points, order=0, outside=0.0) == 0
    shown = np.ma.masked_where(outside, amplitude.sample(plane.points))
    drawn = axes[2].imshow(shown, cmap="viridis", vmin=0)
    figure.colorbar(drawn, ax=axes[2], shrink=0.8, label="amplitude (mm)")
    axes[2].set_title("largest distance between two phases", fontsize=10)
    for axis in axes:
        axis.set_axis_off()
    return figure


def _trajectory_figure(followed: dict[str, np.ndarray]) -> Figure:
    """Each component over the phases, and the way from above: closed curves, from their means."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 4)
    names = list(followed)
    chosen = names[:: max(1, -(-len(names) // _DRAWN))]
    labels = ("left (mm)", "posterior (mm)", "superior (mm)")
    for label in chosen:
        path = followed[label] - followed[label].mean(axis=0)
        for k in range(3):
            axes[k].plot(np.append(path[:, k], path[:1, k]), marker=".", label=label)
        closed = np.vstack([path, path[:1]])
        axes[3].plot(closed[:, 1], closed[:, 2], marker=".")
    for axis, label in zip(axes, labels, strict=False):
        axis.set_ylabel(label)
        axis.set_xlabel("phase")
    axes[3].set_xlabel(labels[1])
    axes[3].set_ylabel(labels[2])
    axes[3].set_aspect("equal", "datalim")
    axes[0].legend(fontsize=7, frameon=False)
    for axis in axes[:3]:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes:
        axis.grid(alpha=0.25)
    return figure


def _html_table(rows: list[dict]) -> str:
    """A table with the columns that any row has."""
    if not rows:
        return "<p>None.</p>"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[escape(str(row.get(key, ""))) for key in columns] for row in rows]
    return page.table([escape(key) for key in columns], lines)
