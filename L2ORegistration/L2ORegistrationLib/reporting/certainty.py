"""How sure a registration is, in words and as a picture: see `engine.confidence`."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ..engine.verdict import FAILED, UNSURE, unsure_sentence
from .tables import LandmarkPairs

if TYPE_CHECKING:
    from ..engine.result import Result

_HOLDS, _ENOUGH = 0.7, 10  # less of so many landmarks contradicts the estimate
_WORTH_SAYING = 0.01  # of the lungs: less is not told apart


def told(provenance: Mapping) -> dict[str, float]:
    """median, p95 (mm) and unsure (share) of a registration's provenance; empty without."""
    found = {}
    for name, key in (("median", "median_mm"), ("p95", "p95_mm"), ("unsure", "unsure")):
        value = float(provenance.get(f"confidence_{key}", np.nan))
        if np.isfinite(value):
            found[name] = value
    return found


def sentence(provenance: Mapping) -> str:
    """What a user should know of it; "" where nothing is known."""
    found = told(provenance)
    if len(found) < 3:
        return ""
    if provenance.get("verdict") == FAILED:
        return "No estimate of the error: the registration failed."
    said = (
        f"Estimated error (9 of 10 places stay below it): median {found['median']:.1f} mm over the "
        f"lungs, 95th percentile {found['p95']:.1f} mm."
    )
    if _WORTH_SAYING <= found["unsure"] <= UNSURE:  # more is one of the verdict's reasons
        said += f" {unsure_sentence(found['unsure'])}"
    return said


def at_landmarks(result: Result, pairs: LandmarkPairs) -> dict[str, list[float]]:
    """error_mm and confidence_mm of each landmark pair; NaN away from the fixed lungs."""
    errors = np.linalg.norm(result.field.transform_points(pairs[0]) - pairs[1], axis=1)
    return {"error_mm": errors.tolist(), "confidence_mm": result.confidence_at(pairs[0]).tolist()}


def of_landmarks(result: Result, pairs: LandmarkPairs) -> str:
    """How many of the landmarks keep to what is told of them, in a sentence; "" where none can."""
    found = {name: np.array(values) for name, values in at_landmarks(result, pairs).items()}
    known = np.isfinite(found["confidence_mm"])
    if not known.any() or result.verdict == FAILED:
        return ""
    within = (found["error_mm"] <= found["confidence_mm"])[known].mean()
    said = f"{within:.0%} of {known.sum()} landmarks stay below their estimate (90 % should)."
    if within < _HOLDS and known.sum() >= _ENOUGH:
        said += " The estimate is too small for this pair, or the landmarks are inexact."
    return said


def section(result: Result, pairs: LandmarkPairs | None = None) -> str:
    """HTML: the sentence, the map, and how many of the landmarks keep to what they are told."""
    from . import page, pictures  # matplotlib takes a second to import

    said = [sentence(result.provenance)]
    if pairs is not None:
        said.append(of_landmarks(result, pairs))
    picture = page.embedded(pictures.png(pictures.confidence(result)))
    text = escape(" ".join(said))
    return f'<p>{text}</p><img alt="Confidence in the lungs, in mm" src="{picture}">'
