"""What a user should think of a registration: good, check or failed, and why, in plain words.

No similarity value alone makes a registration good (AAPM TG-132): the masks must be lungs, the
lungs must overlap, most of both must have found their counterpart, nothing may fold inside them,
and the change of their volume must be a breath's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imports torch, and who words a verdict for a window does without
    from .match import Match

GOOD, CHECK, FAILED = "good", "check", "failed"
# Thresholds: see `Testing/tools/calibrate_verdict.py`, which states how often they are wrong.
MATCHED = {CHECK: 0.66, FAILED: 0.54}  # of the fixed lungs: less than this
RATIO = {CHECK: 0.66, FAILED: 0.8}  # dissimilarity against that beside: more than this
ONE_LUNG = 0.5  # less than this share of one lung while the other is matched
UNEVEN = 1.6  # times as large as the other lung's is the dissimilarity of one: more than this
ALIKE = 5e-3  # dissimilarities below this are next to none
INSIDE = {CHECK: 0.75, FAILED: 0.3}  # of the fixed lungs that both images show: less than this
# Of the fixed lungs may be off by more than UNSURE_MM: more than this. No reason to fail: it is
# calibrated for the usual spacing and iterations, and fluid is no fault of the registration.
UNSURE, UNSURE_MM = 0.15, 5.0
FOLDED = {CHECK: 0.001, FAILED: 0.02}  # of the fixed lungs: more than this
VOLUME = {CHECK: (0.4, 2.5), FAILED: (0.2, 5.0)}  # moving / fixed lung volume


@dataclass(frozen=True)
class Verdict:
    """level: "good", "check" or "failed"; reasons: sentences, none where it is good."""

    level: str
    reasons: tuple[str, ...] = ()


def judge(
    found: Match,
    folded: float,
    expansion: float,
    lungs: Iterable[str] = (),
    turned: str = "",
    unsure: float = 0.0,
) -> Verdict:
    """The verdict on a registration.

    found: how surely the images match; folded: share of the fixed lungs with a Jacobian determinant
    of zero or less; expansion: mean Jacobian determinant in the fixed lungs, that is the moving
    lungs' volume against the fixed ones'; lungs: what is wrong with the masks, a sentence each;
    turned: a sentence where the moving image matches in another orientation only; unsure: share of
    the fixed lungs that may be off by more than UNSURE_MM, after `confidence.summary`.
    """
    said = [(CHECK, reason) for reason in lungs]
    if turned:
        said.append((FAILED, turned))
    if level := _level(INSIDE, found.inside, below=True):
        said.append(
            (
                level,
                f"After the registration both images show only {found.inside:.0%} of the fixed "
                "lungs.",
            )
        )
    matched = _level(MATCHED, found.matched, below=True)
    matched = max(matched, _level(RATIO, found.ratio), key=_RANK.index)
    halves = {"right": found.right, "left": found.left}
    known = None not in halves.values()
    one = known and max(halves.values()) >= MATCHED[CHECK] and min(halves.values()) < ONE_LUNG
    if one and matched == FAILED:  # as beside a lung full of fluid
        matched = CHECK
    if matched:
        said.append(
            (
                matched,
                f"{found.matched:.0%} of the fixed lungs match clearly better where they are put "
                "than 9 mm beside it; scans of one patient usually reach more than 80 %.",
            )
        )
    if one or (not matched and known and min(halves.values()) < ONE_LUNG):
        side = min(halves, key=halves.get)
        said.append((CHECK, f"The {side} lung is hardly matched, the other one is."))
    elif side := _worse(found.mismatch):
        said.append(
            (
                CHECK,
                f"The {side} lung matches clearly worse than the other: look for a collapse, fluid "
                "or another motion than the other lung's.",
            )
        )
    if isnan(unsure):
        said.append((CHECK, "The error could not be estimated."))
    if unsure > UNSURE:
        said.append((CHECK, unsure_sentence(unsure)))
    if level := _level(FOLDED, folded):
        said.append((level, f"The deformation folds in {folded:.2%} of the lungs."))
    for level in (FAILED, CHECK):
        low, high = VOLUME[level]
        if not low <= expansion <= high:
            said.append(
                (
                    level,
                    f"The lungs change their volume by a factor of {expansion:.2f}, more than a "
                    "breath explains.",
                )
            )
            break
    return Verdict(worst(level for level, _ in said), tuple(reason for _, reason in said))


def worst(levels: Iterable[str]) -> str:
    """The worst of several levels; good where there is none."""
    return max(levels, key=_RANK.index, default=GOOD)


def unsure_sentence(share: float) -> str:
    """That this share of the lungs may be far off."""
    return f"{share:.0%} of the lungs may be off by more than {UNSURE_MM:g} mm."


def _worse(mismatch: tuple[float, float] | None) -> str:
    """Which lung matches clearly worse than the other; "" where both match alike."""
    if mismatch is None:
        return ""
    right, left = (max(one, ALIKE) for one in mismatch)
    if max(right / left, left / right) <= UNEVEN:
        return ""
    return "right" if right > left else "left"


_RANK = ("", GOOD, CHECK, FAILED)


def _level(limits: dict[str, float], value: float, below: bool = False) -> str:
    """The worst level whose limit a value is beyond, or ""."""
    for level in (FAILED, CHECK):
        if (value < limits[level]) if below else (value > limits[level]):
            return level
    return ""
