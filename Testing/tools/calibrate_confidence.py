"""How far the confidence can be believed: phantoms of every kind, claimed against true distance.

    python Testing/tools/calibrate_confidence.py OUT FIRST COUNT [METHOD] [--spacing=MM]
        [--voxels=X,Y,Z] [--fit]

Registers COUNT phantom patients from seed FIRST on, once for every kind of `phantom.varied.KINDS`,
and keeps in OUT what is known at 1500 places of the fixed lungs each; what is there is not done
again. "led astray" is the plain kind after something has moved parts of the result by centimetres,
which no registration would leave, but which the confidence has to find. --voxels: of the phantoms
before what a kind does to them, mm, instead of 1.5 mm and slices of 1.25 to 2.5 mm.

Prints, for all and for each kind, the share of places that are off by less than they are told
(90 % is meant), the same for places by what they are told, and how surely places off by more than
2 mm are found (area under the curve), and draws OUT/coverage.png. --fit: prints the constants
of `engine/confidence.py` for all that is in OUT, and reports what each patient is told by a fit to
the other ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "L2ORegistration"))

from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.core.geometry import Volume  # noqa: E402
from L2ORegistrationLib.engine import appraisal, confidence, registration  # noqa: E402
from L2ORegistrationLib.engine.catalogue import DEFAULT  # noqa: E402
from L2ORegistrationLib.engine.images.preprocessing import WORKING_SPACING_MM  # noqa: E402
from L2ORegistrationLib.phantom.pair import make_anatomy, make_pair  # noqa: E402
from L2ORegistrationLib.phantom.splines import smooth_noise  # noqa: E402
from L2ORegistrationLib.phantom.varied import KINDS, vary, with_emphysema  # noqa: E402

PLACES = 1500
OFF_MM = 2.0
ASTRAY = "led astray"
CLOSER = ", closer"  # of kinds of registrations whose last iterations looked closer
ASTRAY_MM, ASTRAY_WIDTH_MM = 10.0, 60.0  # largest false displacement, and how wide it is
BINS_MM = (0, 0.6, 0.8, 1.2, 2, 4, 8, np.inf)
BEST_MM = 0.02  # errors below are as good
SIGNS = (-1, 1, 1, 1)  # which way the distance can only go with the evidence
QUANTILES = (0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.85, 0.93, 0.97, 0.99, 1)  # of the scores, for a fit


def measure(
    out: Path, first: int, count: int, method: str, spacing: float, voxels: tuple | None
) -> list[Path]:
    """Register what is not in OUT yet; the files of all, a kind of a patient each."""
    options, method = {"method": method, "spacing": spacing}, f"{method}_{spacing:g}"
    if voxels:
        method += "_" + "x".join(f"{width:g}" for width in voxels)
    files = []
    for seed in range(first, first + count):
        pair = None
        for kind in KINDS:
            files.append(out / f"{method}_{kind}_{seed}.npz")
            if not files[-1].exists():
                pair = pair or patient(seed, voxels)
                try:
                    found = registered(vary(pair, kind, seed), pair, seed, options, kind == "plain")
                except InputError as refused:
                    print(f"{seed} {kind}: refused: {refused}", flush=True)
                    files.pop()
                    continue
                for name, those in found.items():
                    np.savez(out / f"{method}_{name or kind}_{seed}.npz", **those)
                found = found[""]
                error = found["error"]
                said = f"mean {error.mean():.2f} mm, largest {error.max():.1f} mm"
                print(f"{seed} {kind}: {said}, {found['verdict']}", flush=True)
        files.append(out / f"{method}_{ASTRAY}_{seed}.npz")
    return files


def patient(seed: int, voxels: tuple | None):
    """A phantom pair as training makes them: some with emphysema, some that do not slide."""
    rng = np.random.default_rng([seed, 5])
    spacing = (1.5, 1.5, float(rng.choice([1.25, 1.5, 2.0, 2.5])))
    anatomy = make_anatomy(seed, voxels or spacing, detail=1.0)
    if rng.random() < 0.3:
        anatomy = with_emphysema(anatomy, seed)
    return make_pair(seed, anatomy=anatomy, shift_mm=20.0, sliding=rng.random() < 0.7)


def registered(pair, truth, seed: int, options: dict, astray: bool) -> dict[str, dict]:
    """What is known at places of the fixed lungs: of the result, "", and of ASTRAY where asked for.

    error (N,), mm, evidence (4, N), inside (N,), closest, mm, and the verdict.
    """
    kept = []

    def listening(*given):
        kept[:] = given
        return confidence.confidence(*given)

    appraisal.confidence = listening
    masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
    result = registration.register(pair.fixed, pair.moving, **options, **masks)
    level, field, before, repeated, inside, closest = kept
    # Not of the varied mask: the motion is known exactly at these voxels, and jumps between others.
    points = truth.fixed_mask.marked_points(most=100_000)
    points = points[pair.fixed.grid.contains(points)]
    points = points[np.random.default_rng(seed).permutation(len(points))[:PLACES]]
    missed = result.field.transform_points(points) - truth.field.transform_points(points)

    def known(false) -> dict:
        found = confidence.evidence(level, field + false, before + false, repeated)
        found = found.cpu().numpy()
        moved = [Volume(one, level.grid).sample(points) for one in false.numpy()]
        return {
            "error": np.linalg.norm(missed + np.stack(moved, axis=-1), axis=1),
            "evidence": np.stack([Volume(one, level.grid).sample(points) for one in found]),
            "inside": Volume(inside.astype(np.float32), level.grid).sample(points) > 0.5,
            "verdict": result.verdict,
            "closest": closest,
        }

    rows = {"": known(torch.zeros_like(field))}
    if astray:
        rng = np.random.default_rng([seed, 8])
        bumps = np.stack([smooth_noise(rng, level.grid, ASTRAY_WIDTH_MM) for _ in range(3)])
        far = np.clip(np.linalg.norm(bumps, axis=0) - 1.5, 0, None)  # half of it stays right
        bumps *= ASTRAY_MM * far / far.max() / np.maximum(np.linalg.norm(bumps, axis=0), 1e-6)
        rows[ASTRAY] = known(torch.from_numpy(bumps.astype(np.float32)))
    return rows


def fit(those: list[dict]) -> dict[str, tuple]:
    """The constants: weights by the pinball loss, then distances by the scores' quantiles.

    The weights are those of registrations that did not look closer.
    """
    parts = {"": [], "CLOSE_": []}
    for one in those:
        if one["closest"] == WORKING_SPACING_MM:
            parts[""].append(one)
        elif one["closest"] == confidence.CLOSEST_MM:
            parts["CLOSE_"].append(one)
    constants = {}
    for name, part in parts.items():
        if not part:
            continue
        inside = [one["inside"] & np.isfinite(one["evidence"]).all(axis=0) for one in part]
        evidence = [one["evidence"][:, i] for one, i in zip(part, inside)]
        evidence = np.concatenate(evidence, axis=1)
        error = np.concatenate([one["error"][i] for one, i in zip(part, inside)])
        if not name:
            constants["WEIGHTS"] = weights_for(evidence, error)
        weights = constants.get("WEIGHTS", confidence.WEIGHTS)
        scores, told = distances_for(np.tensordot(weights, evidence, axes=1), error)
        constants |= {f"{name}SCORES": scores, f"{name}DISTANCES_MM": told}
    return constants


def weights_for(evidence: np.ndarray, error: np.ndarray) -> tuple:
    """Of evidence (4, N), so that 90 % of the errors (N,), mm, stay below what the score means."""
    from scipy.optimize import minimize

    wanted = np.log(np.maximum(error, BEST_MM))
    mean, sd = evidence.mean(axis=1), np.maximum(evidence.std(axis=1), 1e-6)
    known = np.vstack([np.ones(len(error)), (evidence - mean[:, None]) / sd[:, None]])
    soft = 0.05

    def loss(weights):
        missing = wanted - weights @ known
        value = (confidence.COVERAGE - 1) * missing + soft * np.logaddexp(0, missing / soft)
        above = 1 / (1 + np.exp(-np.clip(missing / soft, -50, 50)))
        return value.mean(), -(known * (confidence.COVERAGE - 1 + above)).mean(axis=1)

    begin = np.zeros(len(known))
    begin[0] = np.quantile(wanted, confidence.COVERAGE)
    grow = [(0, None) if sign > 0 else (None, 0) for sign in SIGNS]
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=[(None, None), *grow])
    return tuple(np.round(found.x[1:] / sd, 3).tolist())


def distances_for(score: np.ndarray, error: np.ndarray) -> tuple[tuple, tuple]:
    """Scores, and the distances, mm, below which 90 % of the errors at such scores stay."""
    edges = np.quantile(score, QUANTILES)
    parts = [(score >= a) & (score <= b) for a, b in zip(edges, edges[1:], strict=False)]
    scores = [float(np.round(np.median(score[part]), 2)) for part in parts]
    told = [np.quantile(error[part], confidence.COVERAGE) for part in parts]
    return tuple(scores), tuple(np.round(np.maximum.accumulate(told), 2).tolist())


def use(constants: dict[str, tuple]) -> None:
    """Let the confidence have these constants."""
    for name, values in constants.items():
        setattr(confidence, name, values)


def by_kind(loaded: dict[Path, dict]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What the constants, as they are, tell the places of each kind, and the errors there.

    Those of registrations that looked closer are kinds of their own.
    """
    rows = {}
    for kind in kinds():
        those = [
            one
            for file, one in loaded.items()
            if f"_{kind.removesuffix(CLOSER)}_" in file.name
            and kind.endswith(CLOSER) == (one["closest"] < WORKING_SPACING_MM)
        ]
        if those:
            told = np.concatenate(
                [
                    confidence.distances(one["evidence"], one["inside"], float(one["closest"]))
                    for one in those
                ]
            )
            error = np.concatenate([one["error"] for one in those])
            known = np.isfinite(told)
            rows[kind] = told[known], error[known]
    return rows


def kinds() -> list[str]:
    """All kinds of rows, in their order."""
    return [f"{kind}{closer}" for closer in ("", CLOSER) for kind in (*KINDS, ASTRAY)]


def crossed(loaded: dict[Path, dict]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same, each patient told by a fit to the others."""
    parts = []
    for patient in sorted({file.stem.rpartition("_")[2] for file in loaded}):
        mine = {file: one for file, one in loaded.items() if file.stem.endswith(f"_{patient}")}
        use(fit([one for file, one in loaded.items() if file not in mine]))
        parts.append(by_kind(mine))
    return {
        kind: tuple(np.concatenate([p[kind][k] for p in parts if kind in p]) for k in (0, 1))
        for kind in kinds()
        if any(kind in part for part in parts)
    }


def found_by(told: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the curve: the chance that a wrong place is told more than a right one."""
    if not wrong.any() or wrong.all():
        return np.nan
    rank = told.argsort(kind="stable").argsort(kind="stable")
    count = wrong.sum()
    return (rank[wrong].sum() - count * (count - 1) / 2) / (count * (~wrong).sum())


def report(rows: dict[str, tuple[np.ndarray, np.ndarray]], out: Path) -> None:
    """Print and draw how far what is told, rows[kind][0], holds for the errors, rows[kind][1]."""
    from matplotlib.figure import Figure

    told, error = (np.concatenate([row[k] for row in rows.values()]) for k in (0, 1))
    print(f"{'':20} within   off >{OFF_MM:g} mm  found (AUC)  median told  90 % of errors, mm")
    for kind, (t, e) in {**rows, "all": (told, error)}.items():
        area, off = found_by(t, e > OFF_MM), (e > OFF_MM).mean()
        sizes = f"{np.median(t):12.2f} {np.quantile(e, 0.9):9.2f}"
        print(f"{kind:20} {(e <= t).mean():6.3f} {off:11.3f} {area:12.2f} {sizes}")
    claims, shares, true = [], [], []
    for low, high in zip(BINS_MM, BINS_MM[1:], strict=False):
        part = (told > low) & (told <= high)
        if part.sum() > 100:
            claims.append(np.median(told[part]))
            shares.append((error[part] <= told[part]).mean())
            true.append(np.quantile(error[part], 0.9))
            print(f"told {low} to {high} mm: {part.mean():.3f} of all, {shares[-1]:.3f} within")
    figure = Figure(figsize=(9, 2 + 0.2 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(claims, true, "o-", color="#1b9e77")
    left.plot([0.4, 20], [0.4, 20], color="0.7", linewidth=1)
    left.set(xscale="log", yscale="log", xlabel="claimed, mm", ylabel="90 % of errors, mm")
    names, within = list(rows), [(e <= t).mean() for t, e in rows.values()]
    right.barh(names, within, color="#7570b3")
    right.axvspan(0.85, 0.95, color="0.85", zorder=0)
    right.invert_yaxis()
    right.set(xlim=(0.5, 1), xlabel="share of places within what is claimed (90 % is meant)")
    figure.savefig(out / "coverage.png", dpi=110)


def main(out: str, first: str, count: str, *more: str) -> None:
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    method = next((word for word in more if not word.startswith("--")), DEFAULT)
    spacings = [word.partition("=")[2] for word in more if word.startswith("--spacing=")]
    spacing = float(spacings[0]) if spacings else WORKING_SPACING_MM
    voxels = [word.partition("=")[2] for word in more if word.startswith("--voxels=")]
    voxels = tuple(float(width) for width in voxels[0].split(",")) if voxels else None
    files = measure(folder, int(first), int(count), method, spacing, voxels)
    if "--fit" in more:
        loaded = {f: dict(np.load(f)) for f in sorted(folder.glob(f"{method}_{spacing:g}_*.npz"))}
        for name, values in fit(list(loaded.values())).items():
            print(f"{name} = {values}")
        report(crossed(loaded), folder)
        return
    # By the constants as they are now, whatever they were when this was registered.
    report(by_kind({file: dict(np.load(file)) for file in files}), folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
