"""What the console calls after a registration: inverse, ventilation, QA, partners, segments."""

from __future__ import annotations

from ..core.errors import InputError
from ..outputs.followup import VolumeChange
from ..outputs.quality import Row
from . import outputs, transforms, unchanged
from .quality import quality_task


class FollowingLogic:
    """A mix-in of the module's logic. Every method raises InputError for what cannot be used.

    Masks and segments: a label map, a segmentation, or (segmentation, segment); masks are
    automatic when left out.
    """

    def addInverse(self, transform, mask=None) -> tuple:
        """(transform node, Inverse): its round-trip error, in mm in the fixed lungs, included."""
        fixed, _ = images_of(transform)
        return outputs.inverse_task(transform, outputs.lungs_of(fixed, mask)).now()

    def addVentilation(self, transform, mask=None, regions=None) -> tuple:
        """({name: volume node}, table node, Ventilation): see scene.outputs.ventilation_task.

        regions: a segmentation of the fixed scan, such as lobes.
        """
        images = images_of(transform)
        more = None if regions is None else outputs.masks_by_name(regions)
        lungs = outputs.lungs_of(images[0], mask)
        return outputs.ventilation_task(transform, *images, lungs, more).now()

    def addPartners(self, transform, markups, markedIn: str = "fixed") -> tuple:
        """(markups node, MovedPoints, confidence): see scene.outputs.partners_task."""
        return outputs.partners_task(transform, markups, markedIn).now()

    def segmentChange(self, transform, fixedSegment=None, movingSegment=None) -> VolumeChange:
        """The volume of a segment in both scans: see scene.outputs.change_task."""
        return outputs.change_task(transform, fixedSegment, movingSegment).now()

    def assessQuality(
        self,
        transform,
        fixedLandmarks=None,
        movingLandmarks=None,
        fixedStructures=None,
        movingStructures=None,
        mask=None,
        backward=None,
    ) -> list[Row]:
        """TG-132's rows, also as a table node that the transform refers to.

        Structures: two segmentations whose segments have the same names; backward: a registration
        of fixed to moving, found in the scene when left out.
        """
        fixed, _ = images_of(transform)
        pair = (fixedLandmarks, movingLandmarks)
        both = (fixedStructures, movingStructures)
        lungs = outputs.lungs_of(fixed, mask)
        return quality_task(transform, pair, both, lungs, backward).now()[1]


def images_of(transform) -> tuple:
    """The (fixed, moving) volume nodes that the transform registered.

    Raises InputError where one is gone, or the moving one was hardened or edited meanwhile.
    """
    images = transforms.roles(transform)
    if None in images:
        raise InputError(
            f"The volumes that '{transform.GetName()}' registered are no longer in the scene."
        )
    unchanged.check(transform)
    return images
