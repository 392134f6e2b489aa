"""Where a registration begins: the start that was asked for, or the one that the images choose.

Both lungs' distance maps and the images' grids are all that a start is made of; the images come in
only where they choose among several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from ...core.errors import InputError
from ...core.geometry import DisplacementField, Grid, Volume
from ..field.whole import continued
from .alignment import box_alignment, landmark_alignment, lung_alignment, rigid_part
from .apart import lungs_apart
from .choice import CONVINCING, Comparison, Start, best_start

MIN_OVERLAP = 0.3


@dataclass(frozen=True)
class Beginning:
    """What starts are made of.

    fixed, moving: signed distance maps (mm, negative inside); grids: of the fixed and the moving
    image; lattice: of a start that is a displacement field.
    """

    fixed: Volume
    moving: Volume
    grids: tuple[Grid, Grid]
    lattice: Grid

    def affine(self) -> sitk.Transform:
        """The affine that brings the surfaces together."""
        return lung_alignment(self.fixed, self.moving, *self.grids)

    def asked_for(
        self,
        name: str,
        given: sitk.Transform | DisplacementField | None,
        landmarks: tuple[np.ndarray, np.ndarray] | None,
    ) -> sitk.Transform:
        """The start of that name, fixed point -> moving point, LPS mm; a given one replaces it."""
        if given is not None:
            return continued(given, self.lattice)
        if name == "none":
            return sitk.Transform(3, sitk.sitkIdentity)
        if name == "box":
            return box_alignment(self.fixed, self.moving)
        if name == "landmarks":
            return landmark_alignment(*landmarks, self.lattice)
        return self.affine()

    def chosen(self, comparison: Comparison, between: Callable[[], None]) -> list[Start]:
        """The starts that were tried, the one that the images like best first.

        between(): called between steps that take long.
        """
        starts = best_start(comparison, self._candidates(comparison, between))
        between()
        apart = lungs_apart(
            comparison, starts[0], (self.fixed, self.moving), self.grids, self.lattice
        )
        starts[:0] = [apart] if apart else []
        return [replace(start, level=None) for start in starts]

    def _candidates(self, comparison: Comparison, between: Callable[[], None]) -> Iterator[Start]:
        """The starts among which the images choose, the safest first."""
        unmoved = comparison.searched("identity", sitk.Transform(3, sitk.sitkIdentity))
        yield unmoved
        between()
        affine = self.affine()
        between()
        if unmoved.mismatch >= CONVINCING and (rigid := rigid_part(affine, self.fixed)):
            yield comparison.searched("rigid", comparison.realigned(rigid))
            between()
        yield comparison.searched("affine", affine)
        between()
        yield comparison.searched("box", box_alignment(self.fixed, self.moving))

    def check_overlap(self, start: sitk.Transform, searched: bool) -> None:
        """Raises InputError where a start takes most of the fixed lungs out of the moving image.

        searched: the images chose it.
        """
        points = self.fixed.grid.points()[self.fixed.array < 0][::97]
        moved = np.array([start.TransformPoint(p) for p in points.tolist()])
        if self.grids[1].contains(moved).mean() < MIN_OVERLAP:
            advice = (
                "If moving shows a small part of the lungs, exchange fixed and moving; otherwise"
                if searched
                else "Start from 'affine' or 'search', or"
            )
            raise InputError(
                "The images hardly overlap at the start: most of the fixed lungs fall outside the "
                f"moving image. {advice} give an initial transform from fixed to moving."
            )
