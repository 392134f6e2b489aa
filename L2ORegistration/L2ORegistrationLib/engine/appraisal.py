"""What is said of a registration: how sure it is, the verdict, how it came about, warnings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from .. import __version__
from ..core.at_once import at_once
from ..core.geometry import Volume
from ..core.jacobian import jacobian_determinant
from .catalogue import CALIBRATED_ON, DESCRIPTORS, load
from .confidence import OUTSIDE_MM, confidence, summary
from .field.levels import MindLevel
from .images.plausibility import implausible
from .images.preprocessing import WORKING_SPACING_MM, repeated
from .match import Match, match, share_inside
from .result import Result
from .verdict import FAILED, Verdict, judge

MATCHED_AROUND = 0.5  # of what surrounds a place: where less has found its counterpart, it hasn't
FINEST_MM = 1.25  # of the working spacing: at 1 mm the confidence holds for 64 % instead of 90


def appraised(run, best: int, cancelled: bool) -> Result:
    """The step `best` of a `Registration` as its result, with all that is said of it."""
    found = _match(run, best)
    told = _confidence(run, best, found.around)
    sure = summary(told, run.fixed_mask)
    verdict = _judged(run, best, found, sure["unsure"])
    if verdict.level == FAILED:  # the estimate is one for registrations that are about right
        told.array[np.isfinite(told.array)] = OUTSIDE_MM
        sure = summary(told, run.fixed_mask)
    return Result(
        field=run.steps[best].field,
        steps=list(run.steps),
        best=best,
        fixed=run.fixed,
        moving=run.moving,
        fixed_mask=run.fixed_mask,
        moving_mask=run.moving_mask,
        seconds=run.steps[-1].seconds,
        provenance=_provenance(run, verdict, sure),
        cancelled=cancelled,
        judgement=verdict,
        confidence=told,
    )


def warning(run) -> str:
    """What was asked for beyond what is known to be good: sentences, or nothing."""
    said = []
    made = max((stage.iterations for stage in run.plan if stage.all_learned), default=0)
    if made and made > run.card.trained_iterations[1]:
        said.append(
            f"{made} iterations a level are more than the {run.card.name} "
            f"weights were trained with (at most {run.card.trained_iterations[1]}): later "
            "ones may make it worse. The last is kept unless an earlier one matches clearly better."
        )
    if run.too_coarse:
        said.append(
            "The voxels are coarser than those that the network has learned from: plain "
            "Gauss-Newton made all iterations."
        )
    if run.spacing < FINEST_MM:
        said.append(
            f"A working spacing of {run.spacing:g} mm is finer than the usual "
            f"{WORKING_SPACING_MM:g} mm, for which verdict and confidence were calibrated: they "
            "may be wrong."
        )
    if run.short_of_memory:
        said.append(
            "The images are finer than the working grid, but memory was too short for looking "
            "closer in the last iterations: close other programs for a more accurate result."
        )
    return " ".join(said)


def judgement(run, best: int) -> Verdict:
    """What to think of a step of a `Registration`, from all but its confidence."""
    return _judged(run, best, _match(run, best))


def _match(run, best: int) -> Match:
    """How surely the images match there."""
    inside = share_inside(run.fixed_mask, run.moving, run.steps[best].field)
    with torch.inference_mode():
        return match(run.finest, run.fields[best], inside)


def _judged(run, best: int, found: Match, unsure: float = 0.0) -> Verdict:
    """What to think of a step, from what images, masks and field say; see `verdict.judge`."""
    field = run.steps[best].field
    determinant = jacobian_determinant(field)
    lungs = run.fixed_mask.sample(determinant.grid.points(), order=0, outside=0.0) > 0
    values = determinant.array[lungs] if lungs.any() else np.ones(1)
    masks, images = (run.fixed_mask, run.moving_mask), (run.fixed, run.moving)
    odd = [
        f"The {name} lungs look wrong: {reason}"
        for name, reasons in zip(("fixed", "moving"), at_once(implausible, masks, images))
        for reason in reasons
    ]
    folded, expansion = float((values <= 0).mean()), float(values.mean())
    return judge(found, folded, expansion, odd, run.turned, unsure)


def _confidence(run, best: int, matched: Volume | None) -> Volume:
    """How far off a step may be: see `confidence.confidence`; matched: `Match.around`."""
    with torch.inference_mode():
        level, (fields, before) = run.finest, (run.fields, _before(run, best))
        if run.method.finest != CALIBRATED_ON:
            level = load(DESCRIPTORS[CALIBRATED_ON])(run.pyramid, None)
        field, before = (level.sample_field(one) for one in (fields[best], fields[before]))
        moved = run.steps[best].field.transform_points(level.grid.points())
        inside = run.moving.grid.contains(moved) & _seen(level, field)
        spacings = [image.grid.spacing for image in (run.fixed, run.moving)]
        coarse = repeated(spacings, WORKING_SPACING_MM)
        told = confidence(replace(level), field, before, coarse, inside, _closest(run, best))
    if matched is not None:  # a part that lies wrong as a whole can look sharp and settled
        nothing = matched.sample(told.grid.points()) < MATCHED_AROUND
        told.array[nothing] = np.maximum(told.array[nothing], OUTSIDE_MM)
    return told


def _seen(level: MindLevel, field: torch.Tensor) -> np.ndarray:
    """Whether both images show what lies at each field voxel, bool (d, h, w), as far as known."""
    seen = np.ones(level.shape, bool)
    seen.flat[level.active_nodes.cpu().numpy()] = level.both_show(field).cpu().numpy()
    return seen


def _closest(run, best: int) -> float:
    """The grid, mm, that the step `best` has looked at where it is closer than the usual one."""
    closely = run.plan[-1].settings.get("closely", 0)
    if run.closer_ratio == 1 or best <= run.total - closely:
        return WORKING_SPACING_MM
    return run.spacing / float(run.closer_ratio)


def _before(run, best: int) -> int:
    """The step that the last stage until `best` began with; half of a single stage's."""
    stages = [(step.stage, step.level) for step in run.steps]
    before = stages.index(stages[best]) - 1
    return before if before > 1 else best // 2


def _provenance(run, verdict: Verdict, told: dict[str, float]) -> dict[str, str | int | float]:
    return {
        "software": f"L2ORegistration {__version__}",
        "method": run.name,
        "model": f"{run.card.name} {run.card.version}" if run.card else "",
        "model_sha256": run.card.sha256 if run.card else "",
        "start": "given transform" if run.given is not None else run.start_name,
        "start_model": f"{run.predictor[0].name} {run.predictor[0].version}"
        if run.predictor
        else "",
        "start_chosen": ", ".join(f"{s.name} {s.mismatch:.4f}" for s in run.starts),
        "plan": ", ".join(f"{stage.name} {stage.iterations}" for stage in run.plan),
        "spacing_mm": run.spacing,
        "closest_mm": round(run.spacing / float(run.closer_ratio), 3),
        "device": str(run.device),
        "torch": torch.__version__,
        "seconds": round(run.steps[-1].seconds, 2),
        "verdict": verdict.level,
        "reasons": " ".join(verdict.reasons),
        "confidence_median_mm": round(told["median"], 2),
        "confidence_p95_mm": round(told["p95"], 2),
        "confidence_unsure": round(told["unsure"], 3),
        "warning": warning(run),
    }
